{{/* Whether the cluster has the CRD of an optional object: (list context "monitoring.coreos.com/v1/PodMonitor"). */}}
{{- define "journey-consumer.supported" -}}
{{- $context := index . 0 -}}
{{- if or (not $context.Values.monitoring.skipMissingCrds) ($context.Capabilities.APIVersions.Has (index . 1)) -}}true{{- end -}}
{{- end -}}

{{/* The label job is always the same, whichever monitor is used, so that rules and dashboards find the metrics. */}}
{{- define "journey-consumer.jobLabel" -}}journey-consumer{{- end -}}

{{/* Matchers of this release's series. */}}
{{- define "journey-consumer.matchers" -}}
job="{{ include "journey-consumer.jobLabel" . }}",namespace="{{ .Release.Namespace }}",release="{{ .Release.Name }}"
{{- end -}}

{{/* The endpoint of a monitor: (list context .Values.monitoring.podMonitor). */}}
{{- define "journey-consumer.endpoint" -}}
{{- $monitor := index . 1 -}}
- port: http
  path: /metrics
  interval: {{ $monitor.interval }}
  scrapeTimeout: {{ $monitor.scrapeTimeout }}
  relabelings:
    - targetLabel: job
      replacement: {{ include "journey-consumer.jobLabel" (index . 0) }}
    - targetLabel: release
      replacement: {{ (index . 0).Release.Name | quote }}
    {{- with $monitor.relabelings }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with $monitor.metricRelabelings }}
  metricRelabelings:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}
