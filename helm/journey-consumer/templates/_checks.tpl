{{/* Values that contradict each other. Every sentence says what to change; all are reported together. */}}
{{- define "journey-consumer.problems" -}}
{{- include "journey-consumer.missing" . -}}
{{- include "journey-consumer.scaleProblems" . -}}
{{- include "journey-consumer.otherProblems" . -}}
{{- end -}}

{{- define "journey-consumer.missing" -}}
{{- if not .Values.image.repository }}
- image.repository is not set: build the image from the Dockerfile, push it where the cluster can pull it, and name it here.
{{- end }}
{{- if not .Values.broker.existingSecret }}
- broker.existingSecret is not set: name the Secret that holds the broker's address (key "{{ .Values.broker.key }}").
{{- end }}
{{- $token := .Values.registry.token.existingSecret }}
{{- $keys := .Values.registry.accessKeys.existingSecret }}
{{- if and $token $keys }}
- registry.token.existingSecret and registry.accessKeys.existingSecret are both set: keep one of them.
{{- end }}
{{- if not (or $token $keys) }}
- no credentials of the Registry are named: set registry.token.existingSecret, or registry.accessKeys.existingSecret for v3.3.
{{- end }}
{{- if and $keys (ne .Values.registry.apiVersion "v3.3") }}
- registry.accessKeys needs registry.apiVersion v3.3: only that version exchanges keys for tokens.
{{- end }}
{{- if and (eq .Values.queue.declare "job") (not .Values.queue.declareJob.existingSecret) }}
- queue.declare is "job": name the Secret with the declaring user's address in queue.declareJob.existingSecret.
{{- end }}
{{- end -}}

{{- define "journey-consumer.scaleProblems" -}}
{{- $registry := .Values.registry }}
{{- $scaling := .Values.autoscaling }}
{{- $pods := include "journey-consumer.mostPods" . | int64 }}
{{- $share := include "journey-consumer.ratePerPod" . | int64 }}
{{- if include "journey-consumer.autoscaled" . }}
{{- if not (kindIs "invalid" .Values.replicas) }}
- replicas is set, but autoscaling.type is "{{ $scaling.type }}": remove replicas, or set autoscaling.type to "none".
{{- end }}
{{- if lt (int $scaling.minReplicas) 1 }}
- autoscaling.minReplicas must be at least 1: without a pod the first journey waits while its 24 hours pass.
{{- end }}
{{- if gt (int $scaling.minReplicas) (int $scaling.maxReplicas) }}
- autoscaling.minReplicas ({{ $scaling.minReplicas }}) exceeds autoscaling.maxReplicas ({{ $scaling.maxReplicas }}): lower the one or raise the other.
{{- end }}
{{- end }}
{{- if eq $scaling.type "keda" }}
{{- if not $scaling.keda.managementUrl }}
- autoscaling.keda.managementUrl is not set: KEDA reads the length of the queue from RabbitMQ's management API.
{{- end }}
{{- if not $scaling.keda.existingSecret }}
- autoscaling.keda.existingSecret is not set: name the Secret with user and password of a broker user tagged "monitoring".
{{- end }}
{{- end }}
{{- if and (gt (int64 $registry.ratePerMinute) 20000) (regexMatch "^https://[^/]*\\.covoiturage\\.beta\\.gouv\\.fr(:|/|$)" $registry.url) }}
- registry.ratePerMinute ({{ int64 $registry.ratePerMinute }}) exceeds the 20000 requests per minute that the Registry allows: lower it.
{{- end }}
{{- if lt $share 1 }}
- registry.ratePerMinute ({{ int64 $registry.ratePerMinute }}) is less than one request per minute for each of {{ $pods }} pods: raise it or lower the number of pods.
{{- else if gt (mul $pods $share) (int64 $registry.ratePerMinute) }}
- {{ $pods }} pods (surge included) times registry.ratePerPod ({{ $share }}) exceed registry.ratePerMinute ({{ int64 $registry.ratePerMinute }}): lower registry.ratePerPod to {{ div (int64 $registry.ratePerMinute) $pods }}, or leave it null.
{{- end }}
{{- $least := include "journey-consumer.leastGrace" . | int }}
{{- if lt (include "journey-consumer.grace" . | int) $least }}
- terminationGracePeriodSeconds ({{ .Values.terminationGracePeriodSeconds }}) is shorter than drainTimeoutSeconds plus registry.timeoutSeconds ({{ $least }}): pods would be killed while draining. Raise it, or leave it null.
{{- end }}
{{- end -}}

{{- define "journey-consumer.otherProblems" -}}
{{- if and .Values.monitoring.podMonitor.enabled .Values.monitoring.serviceMonitor.enabled }}
- monitoring.podMonitor and monitoring.serviceMonitor are both enabled: every series would be counted twice. Keep one.
{{- end }}
{{- if and .Values.queue.routingKey (not .Values.queue.exchange) }}
- queue.routingKey needs queue.exchange.
{{- end }}
{{- if and .Values.queue.exchange (eq .Values.queue.declare "never") }}
- queue.exchange has no effect while queue.declare is "never": nothing would be bound.
{{- end }}
{{- if not (kindIs "invalid" .Values.broker.prefetch) }}
{{- if lt (int .Values.broker.prefetch) (int .Values.registry.concurrency) }}
- broker.prefetch must be at least registry.concurrency, or requests wait for deliveries.
{{- end }}
{{- end }}
{{- $owned := include "journey-consumer.settings" . | fromYaml }}
{{- $secrets := list "BROKER_URL" "REGISTRY_TOKEN" "REGISTRY_TOKEN_FILE" "REGISTRY_ACCESS_KEY" "REGISTRY_ACCESS_KEY_FILE" "REGISTRY_SECRET_KEY" "REGISTRY_SECRET_KEY_FILE" "REGISTRY_PROXY_URL" }}
{{- range .Values.extraEnv }}
{{- if has .name $secrets }}
- extraEnv sets {{ .name }}: name its Secret under broker or registry instead; an environment variable does not follow rotation.
{{- else if hasKey $owned .name }}
- extraEnv sets {{ .name }}: set the value it belongs to instead (see the README), or the chart calculates with another value.
{{- end }}
{{- end }}
{{- end -}}
