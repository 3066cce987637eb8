{{/* How KEDA learns how many jobs wait. Takes a dict of root and jobs: how many of them are for one worker. */}}
{{- define "unet-factory.trigger" -}}
{{- $scaling := .root.Values.autoscaling }}
{{- $asked := ternary $scaling.redis $scaling.prometheus (eq $scaling.trigger "redis") }}
{{- if eq $scaling.trigger "prometheus" }}
- type: prometheus
  metadata:
    serverAddress: {{ required "autoscaling.prometheus.address must say where Prometheus is" $asked.address }}
    # every gateway reports the same queue
    query: max(unet_factory_queue_depth{queue="segmentations",namespace={{ .root.Release.Namespace | quote }}})
    threshold: {{ .jobs | quote }}
{{- else }}
{{- if .root.Values.stores.bundled }}
- type: redis
  metadata:
    address: {{ include "unet-factory.name" .root }}-redis-jobs.{{ .root.Release.Namespace }}.svc:6379
{{- else if $asked.sentinel.addresses }}
- type: redis-sentinel
  metadata:
    addresses: {{ $asked.sentinel.addresses | quote }}
    sentinelMaster: {{ required "autoscaling.redis.sentinel.service must name the job store as the Sentinels do" $asked.sentinel.service }}
    enableTLS: {{ $asked.tls | quote }}
{{- else }}
- type: redis
  metadata:
    address: {{ required "autoscaling.redis.address must say where the job store is" $asked.address }}
    enableTLS: {{ $asked.tls | quote }}
{{- end }}
    databaseIndex: "0"
    listName: segmentations
    listLength: {{ .jobs | quote }}
{{- end }}
{{- with $asked.triggerAuthentication }}
  authenticationRef:
    name: {{ . }}
{{- end }}
{{- end }}
