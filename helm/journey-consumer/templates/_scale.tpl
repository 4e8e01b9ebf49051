{{/* The largest number of pods, and each one's share of the Registry's limit, which counts all of them. */}}
{{- define "journey-consumer.replicas" -}}
{{- if kindIs "invalid" .Values.replicas -}}2{{- else -}}{{ int .Values.replicas }}{{- end -}}
{{- end -}}

{{- define "journey-consumer.autoscaled" -}}
{{- if ne .Values.autoscaling.type "none" -}}true{{- end -}}
{{- end -}}

{{- define "journey-consumer.maxReplicas" -}}
{{- if include "journey-consumer.autoscaled" . -}}
{{ int .Values.autoscaling.maxReplicas }}
{{- else -}}
{{ include "journey-consumer.replicas" . }}
{{- end -}}
{{- end -}}

{{/* Pods that a roll-out adds on top; 25 % is Kubernetes' default. */}}
{{- define "journey-consumer.surge" -}}
{{- $max := int (include "journey-consumer.maxReplicas" .) -}}
{{- if eq (default "RollingUpdate" .Values.updateStrategy.type) "Recreate" -}}0
{{- else -}}
{{- $rolling := default dict .Values.updateStrategy.rollingUpdate -}}
{{- $surge := hasKey $rolling "maxSurge" | ternary (get $rolling "maxSurge") "25%" -}}
{{- if kindIs "string" $surge -}}
{{- $percent := float64 (trimSuffix "%" $surge) -}}
{{- ceil (divf (mulf $max $percent) 100) | int -}}
{{- else -}}
{{- int $surge -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "journey-consumer.mostPods" -}}
{{- add (include "journey-consumer.maxReplicas" . | int) (include "journey-consumer.surge" . | int) -}}
{{- end -}}

{{- define "journey-consumer.ratePerPod" -}}
{{- if kindIs "invalid" .Values.registry.ratePerPod -}}
{{- div (int64 .Values.registry.ratePerMinute) (max 1 (include "journey-consumer.mostPods" . | int64)) -}}
{{- else -}}
{{- int64 .Values.registry.ratePerPod -}}
{{- end -}}
{{- end -}}

{{/* The least time to drain a pod: the deliveries in flight, and one request that was just sent. */}}
{{- define "journey-consumer.leastGrace" -}}
{{- ceil (addf .Values.drainTimeoutSeconds .Values.registry.timeoutSeconds) | int -}}
{{- end -}}

{{- define "journey-consumer.grace" -}}
{{- if kindIs "invalid" .Values.terminationGracePeriodSeconds -}}
{{- add (include "journey-consumer.leastGrace" . | int) 10 -}}
{{- else -}}
{{- int .Values.terminationGracePeriodSeconds -}}
{{- end -}}
{{- end -}}
