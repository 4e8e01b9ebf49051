{{/* Names. Objects of two releases in one namespace never share one: only the release called exactly
     like the chart goes by that name alone, and what is too long ends in a hash of the whole. */}}
{{- define "journey-consumer.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "journey-consumer.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- $full := .Values.fullnameOverride -}}
{{- if not $full -}}
{{- $full = eq .Release.Name $name | ternary $name (printf "%s-%s" .Release.Name $name) -}}
{{- end -}}
{{- if gt (len $full) 50 -}}
{{- printf "%s-%s" ($full | trunc 41 | trimSuffix "-") ($full | sha256sum | trunc 8) -}}
{{- else -}}
{{- $full -}}
{{- end -}}
{{- end -}}

{{- define "journey-consumer.instanceLabels" -}}
app.kubernetes.io/name: {{ include "journey-consumer.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{/* Only the service's own pods: neither the check of `helm test` nor the job that declares queues. */}}
{{- define "journey-consumer.selectorLabels" -}}
{{ include "journey-consumer.instanceLabels" . }}
app.kubernetes.io/component: consumer
{{- end -}}

{{/* Labels of pods: (list context component). Without the chart's version, whose change alone restarts nothing.
     Ours win over the operator's, because selectors rely on them. */}}
{{- define "journey-consumer.podLabels" -}}
{{- $context := index . 0 -}}
{{- $ours := include "journey-consumer.instanceLabels" $context | fromYaml -}}
{{- $_ := set $ours "app.kubernetes.io/component" (index . 1) -}}
{{- $_ := set $ours "app.kubernetes.io/part-of" "journey-consumer" -}}
{{- toYaml (merge $ours $context.Values.podLabels $context.Values.commonLabels) -}}
{{- end -}}

{{/* Labels of objects: (list context component further), where further may be left out. */}}
{{- define "journey-consumer.labels" -}}
{{- $context := index . 0 -}}
{{- $ours := include "journey-consumer.instanceLabels" $context | fromYaml -}}
{{- $_ := set $ours "app.kubernetes.io/component" (index . 1) -}}
{{- $_ := set $ours "app.kubernetes.io/part-of" "journey-consumer" -}}
{{- $_ := set $ours "app.kubernetes.io/version" (toString $context.Chart.AppVersion) -}}
{{- $_ := set $ours "app.kubernetes.io/managed-by" $context.Release.Service -}}
{{- $_ := set $ours "helm.sh/chart" (printf "%s-%s" $context.Chart.Name $context.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-") -}}
{{- $further := gt (len .) 2 | ternary (last .) dict -}}
{{- toYaml (merge $ours $further $context.Values.commonLabels) -}}
{{- end -}}

{{- define "journey-consumer.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "journey-consumer.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "journey-consumer.image" -}}
{{- with (default dict .Values.global).imageRegistry -}}{{ trimSuffix "/" . }}/{{- end -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ default $.Chart.AppVersion .tag }}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* YAML numbers are floats; large ones would be printed as 1e+06. */}}
{{- define "journey-consumer.plain" -}}
{{- if and (kindIs "float64" .) (eq (floor .) .) -}}{{ int64 . }}{{- else -}}{{ . }}{{- end -}}
{{- end -}}

{{/* A null removes a default, as Helm does for values files. */}}
{{- define "journey-consumer.withoutNulls" -}}
{{- $kept := dict -}}
{{- range $key, $value := . -}}
{{- if not (kindIs "invalid" $value) -}}{{- $_ := set $kept $key $value -}}{{- end -}}
{{- end -}}
{{- toYaml $kept -}}
{{- end -}}
