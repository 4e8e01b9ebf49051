{{/* The service's settings that are not secret, as a map of strings. */}}
{{- define "journey-consumer.settings" -}}
{{- $settings := dict
    "SECRETS_DIR" (include "journey-consumer.secretsDirectory" .)
    "REGISTRY_URL" .Values.registry.url
    "REGISTRY_API_VERSION" .Values.registry.apiVersion
    "REGISTRY_RATE_PER_MINUTE" (include "journey-consumer.ratePerPod" .)
    "REGISTRY_CONCURRENCY" (include "journey-consumer.plain" .Values.registry.concurrency)
    "REGISTRY_TIMEOUT_SECONDS" (include "journey-consumer.plain" .Values.registry.timeoutSeconds)
    "RETRY_MAX_ATTEMPTS" (include "journey-consumer.plain" .Values.deadLetters.afterAttempts)
    "AUTH_PAUSE_AFTER" (include "journey-consumer.plain" .Values.deadLetters.pauseAfterRefusals)
    "DEAD_LETTERS_RETURN_UNAUTHORIZED" (toString .Values.deadLetters.returnUnauthorized)
    "DEAD_LETTERS_RETURN_PER_SECOND" (include "journey-consumer.plain" .Values.deadLetters.returnPerSecond)
    "DEAD_LETTERS_LOOK_SECONDS" (include "journey-consumer.plain" .Values.deadLetters.lookSeconds)
    "DRAIN_TIMEOUT_SECONDS" (include "journey-consumer.plain" .Values.drainTimeoutSeconds)
    "HTTP_PORT" "8000"
    "LOG_LEVEL" .Values.logs.level
    "LOG_FORMAT" .Values.logs.format
    "LOG_JOURNEYS" .Values.logs.journeys
-}}
{{- if not (kindIs "invalid" .Values.broker.prefetch) -}}
{{- $_ := set $settings "BROKER_PREFETCH" (include "journey-consumer.plain" .Values.broker.prefetch) -}}
{{- end -}}
{{- if eq .Values.queue.declare "job" -}}
{{- $_ := set $settings "DEAD_LETTERS_UNVERIFIED" "true" -}}
{{- end -}}
{{- with .Values.events.exchange -}}{{- $_ := set $settings "EVENTS_EXCHANGE" . -}}{{- end -}}
{{- if .Values.registry.caBundle.existingConfigMap -}}
{{- $_ := set $settings "REGISTRY_CA_FILE" (printf "/etc/journey-consumer/registry-ca/%s" .Values.registry.caBundle.key) -}}
{{- end -}}
{{- with .Values.eventMapping -}}
{{- if .existingConfigMap -}}
{{- $_ := set $settings "EVENT_MAPPING_FILE" (printf "/etc/journey-consumer/mapping/%s" .key) -}}
{{- else if .name -}}
{{- $_ := set $settings "EVENT_MAPPING_FILE" .name -}}
{{- end -}}
{{- end -}}
{{- range $name, $value := .Values.settings -}}
{{- $_ := set $settings $name (include "journey-consumer.plain" $value) -}}
{{- end -}}
{{- $declares := eq .Values.queue.declare "service" -}}
{{- toYaml (merge $settings (include "journey-consumer.queueSettings" (list . $declares) | fromYaml)) -}}
{{- end -}}

{{/* The settings of the queues and of declaring them: (list context declares). */}}
{{- define "journey-consumer.queueSettings" -}}
{{- $context := index . 0 -}}
{{- $declares := index . 1 -}}
{{- $values := $context.Values -}}
{{- $settings := dict
    "BROKER_QUEUE" $values.queue.name
    "BROKER_DECLARE" (toString $declares)
    "BROKER_DELIVERY_LIMIT" (include "journey-consumer.plain" $values.queue.deliveryLimit)
-}}
{{- if and $declares $values.queue.exchange -}}
{{- $_ := set $settings "BROKER_EXCHANGE" $values.queue.exchange -}}
{{- with $values.queue.routingKey -}}{{- $_ := set $settings "BROKER_ROUTING_KEY" . -}}{{- end -}}
{{- end -}}
{{- if $values.broker.requireTls -}}{{- $_ := set $settings "BROKER_REQUIRE_TLS" "true" -}}{{- end -}}
{{- if $values.broker.caBundle.existingConfigMap -}}
{{- $_ := set $settings "BROKER_CA_FILE" (printf "/etc/journey-consumer/broker-ca/%s" $values.broker.caBundle.key) -}}
{{- end -}}
{{- toYaml $settings -}}
{{- end -}}
