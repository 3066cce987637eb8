{{/* The name that all objects begin with. */}}
{{- define "unet-factory.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name }}{{ else }}{{ .Release.Name }}-{{ .Chart.Name }}{{ end -}}
{{- end }}

{{/* The labels by which pods are selected. Takes a dict of root and component. */}}
{{- define "unet-factory.selector" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "unet-factory.labels" -}}
{{ include "unet-factory.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version }}
{{- end }}

{{/* Takes a dict of root and image. */}}
{{- define "unet-factory.image" -}}
image: {{ .root.Values.image.registry }}{{ .image }}:{{ .root.Values.image.tag | default .root.Chart.AppVersion }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
{{- end }}

{{/* Of every pod that runs one of our images. */}}
{{- define "unet-factory.pod" -}}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .Values.serviceAccountName }}
serviceAccountName: {{ . }}
{{- end }}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile:
    type: RuntimeDefault
{{- end }}

{{- define "unet-factory.locked" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
{{- end }}

{{/* Settings of the operator's choice, of a role before those of all. Takes a dict of root and settings. */}}
{{- define "unet-factory.settings" -}}
{{- range $name, $value := merge (dict) (.settings | default dict) .root.Values.settings }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- end }}

{{/* What gateway, workers and couriers need to know of each other's places. */}}
{{- define "unet-factory.places" -}}
{{- if .Values.stores.bundled }}
- name: UNET_FACTORY_REDIS_URL
  value: redis://{{ include "unet-factory.name" . }}-redis-jobs:6379/0
- name: UNET_FACTORY_CACHE_URL
  value: redis://{{ include "unet-factory.name" . }}-redis-cache:6379/0
{{- else }}
- name: UNET_FACTORY_SECRETS_DIR
  value: /run/secrets/stores
{{- end }}
- name: UNET_FACTORY_MODELS_DIR
  value: /models
- name: UNET_FACTORY_BLOB_URL
  value: {{ .Values.blobs.s3.url | default "file:///data/blobs" }}
{{- with .Values.blobs.s3.endpoint }}
- name: AWS_ENDPOINT_URL_S3
  value: {{ . }}
{{- end }}
{{- with .Values.blobs.s3.region }}
- name: AWS_DEFAULT_REGION
  value: {{ . }}
{{- end }}
{{- if .Values.blobs.s3.caSecret }}
- name: AWS_CA_BUNDLE
  value: /run/secrets/s3-ca/ca.crt
{{- end }}
{{- if .Values.blobs.s3.credentialsSecret }}
- name: AWS_SHARED_CREDENTIALS_FILE
  value: /run/secrets/s3/credentials
{{- end }}
{{- if .Values.courier.enabled }}
- name: UNET_FACTORY_DESTINATIONS
  value: /etc/unet-factory/destinations.yml
{{- end }}
{{- if .Values.routing }}
- name: UNET_FACTORY_ROUTING
  value: /etc/unet-factory/routing.yml
{{- end }}
{{- end }}

{{- define "unet-factory.mounts" -}}
- name: temporary
  mountPath: /tmp
- name: models
  mountPath: /models
  readOnly: true
{{- if not .Values.blobs.s3.url }}
- name: blobs
  mountPath: /data/blobs
{{- end }}
{{- if .Values.blobs.s3.credentialsSecret }}
- name: s3
  mountPath: /run/secrets/s3
  readOnly: true
{{- end }}
{{- if .Values.blobs.s3.caSecret }}
- name: s3-ca
  mountPath: /run/secrets/s3-ca
  readOnly: true
{{- end }}
{{- if not .Values.stores.bundled }}
- name: stores
  mountPath: /run/secrets/stores
  readOnly: true
{{- end }}
{{- if or .Values.courier.enabled .Values.routing }}
- name: configuration
  mountPath: /etc/unet-factory
  readOnly: true
{{- end }}
{{- end }}

{{/* Takes a dict of root and temporarySpace. */}}
{{- define "unet-factory.volumes" -}}
- name: temporary
  emptyDir:
    sizeLimit: {{ .temporarySpace }}
- name: models
  {{- toYaml .root.Values.models.volume | nindent 2 }}
{{- if not .root.Values.blobs.s3.url }}
- name: blobs
  persistentVolumeClaim:
    claimName: {{ .root.Values.blobs.claim.name | default (printf "%s-blobs" (include "unet-factory.name" .root)) }}
{{- end }}
{{- with .root.Values.blobs.s3.credentialsSecret }}
- name: s3
  secret:
    secretName: {{ . }}
    defaultMode: 0440
{{- end }}
{{- with .root.Values.blobs.s3.caSecret }}
- name: s3-ca
  secret:
    secretName: {{ . }}
    defaultMode: 0440
{{- end }}
{{- if not .root.Values.stores.bundled }}
- name: stores
  secret:
    secretName: {{ required "stores.urlsSecret must name a secret with the stores' URLs where none are bundled" .root.Values.stores.urlsSecret }}
    defaultMode: 0440
{{- end }}
{{- if or .root.Values.courier.enabled .root.Values.routing }}
- name: configuration
  configMap:
    name: {{ include "unet-factory.name" .root }}
{{- end }}
{{- end }}

{{/* Pods start again when the files that they read at their start have changed. */}}
{{- define "unet-factory.checksum" -}}
checksum/configuration: {{ toYaml (list .Values.courier.destinations .Values.routing) | sha256sum }}
{{- end }}

{{/* The exporter of a worker or courier; it answers once the role takes work. */}}
{{- define "unet-factory.exporter" -}}
ports:
  - name: metrics
    containerPort: 9464
startupProbe:
  httpGet: { path: /metrics, port: metrics }
  periodSeconds: 5
  failureThreshold: 120
livenessProbe:
  httpGet: { path: /metrics, port: metrics }
  periodSeconds: 10
  timeoutSeconds: 5
{{- end }}

{{- define "unet-factory.exporterSettings" -}}
- name: UNET_FACTORY_METRICS_HOST
  value: 0.0.0.0
- name: UNET_FACTORY_METRICS_PORT
  value: "9464"
{{- end }}
