{{/* The pods of a group of workers. Takes a dict of root, group and worker. */}}
{{- define "unet-factory.worker" -}}
metadata:
  labels:
    {{- include "unet-factory.selector" (dict "root" .root "component" "worker") | nindent 4 }}
    unet-factory/workers: {{ .group }}
  annotations:
    {{- include "unet-factory.checksum" .root | nindent 4 }}
    {{- if and .worker.autoscaling.enabled .worker.autoscaling.asJobs }}
    cluster-autoscaler.kubernetes.io/safe-to-evict: "false"
    {{- end }}
spec:
  {{- if and .worker.autoscaling.enabled .worker.autoscaling.asJobs }}
  restartPolicy: Never # what it was doing is done again by its lease, in whichever worker
  {{- end }}
  {{- include "unet-factory.pod" .root | nindent 2 }}
  {{- with .worker.runtimeClass }}
  runtimeClassName: {{ . }}
  {{- end }}
  {{- with .worker.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .worker.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  terminationGracePeriodSeconds: {{ add .worker.stopGraceSeconds 15 }}
  containers:
    - name: worker
      {{- include "unet-factory.image" (dict "root" .root "image" .worker.image) | nindent 6 }}
      command: [unet-factory, worker]
      env:
        {{- include "unet-factory.places" .root | trim | nindent 8 }}
        {{- include "unet-factory.exporterSettings" .root | nindent 8 }}
        - name: UNET_FACTORY_DEVICE
          value: {{ .worker.device }}
        - name: UNET_FACTORY_STOP_GRACE_S
          value: {{ .worker.stopGraceSeconds | quote }}
        {{- if and .worker.autoscaling.enabled .worker.autoscaling.asJobs }}
        - name: UNET_FACTORY_IDLE_EXIT_S
          value: {{ .worker.autoscaling.idleSeconds | default 60 | quote }}
        {{- end }}
        - name: UNET_FACTORY_THREADS # a container sees all cores of its node
          valueFrom:
            resourceFieldRef:
              resource: limits.cpu
        {{- include "unet-factory.settings" (dict "root" .root "settings" .worker.settings) | trim | nindent 8 }}
      {{- include "unet-factory.exporter" .root | nindent 6 }}
      resources:
        {{- toYaml .worker.resources | nindent 8 }}
      {{- include "unet-factory.locked" .root | nindent 6 }}
      volumeMounts:
        {{- include "unet-factory.mounts" .root | nindent 8 }}
  volumes:
    {{- include "unet-factory.volumes" (dict "root" .root "temporarySpace" .worker.temporarySpace) | nindent 4 }}
{{- end }}
