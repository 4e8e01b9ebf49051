{{/* Parts of the PrometheusRule. Every expression is about this release alone, and every alert carries its
     namespace and release as labels, so that Alertmanager can let one alert of a release inhibit another. */}}

{{/* Labels of a rule: (list context severity); severity "" for a recording rule. */}}
{{- define "journey-consumer.ruleLabels" -}}
{{- $context := index . 0 -}}
{{- $ours := dict "namespace" $context.Release.Namespace "release" $context.Release.Name -}}
{{- if index . 1 -}}
{{- $_ := set $ours "severity" (index . 1) -}}
{{- $ours = merge $ours $context.Values.monitoring.rules.alertLabels -}}
{{- end -}}
{{- toYaml $ours -}}
{{- end -}}

{{/* A metric of RabbitMQ, from /metrics/per-object or /metrics/detailed: (list context metric matcher). */}}
{{- define "journey-consumer.brokerMetric" -}}
{{- $context := index . 0 -}}
{__name__=~"rabbitmq_(detailed_)?{{ index . 1 }}",{{ with $context.Values.monitoring.rules.brokerMatchers }}{{ . }},{{ end }}{{ index . 2 }}}
{{- end -}}

{{- define "journey-consumer.mainQueue" -}}
queue={{ printf "%q" .Values.queue.name }}
{{- end -}}

{{- define "journey-consumer.deadLetterQueues" -}}
queue=~{{ printf "%q" (printf "%s\\.dead-letter\\..+" (regexQuoteMeta .Values.queue.name)) }}
{{- end -}}

{{/* Journeys per second that were lost for a reason that is not in their payload, or registered too late. */}}
{{- define "journey-consumer.errorRate" -}}
{{- $s := include "journey-consumer.matchers" (index . 0) -}}
sum(rate(journey_consumer_journeys_total{{ printf "{%s,outcome=~\"unauthorized|forbidden|expired|exhausted\"}" $s }}[{{ index . 1 }}]))
+ sum(rate(journey_consumer_journey_age_at_registration_seconds_count{{ printf "{%s}" $s }}[{{ index . 1 }}]))
- sum(rate(journey_consumer_journey_age_at_registration_seconds_bucket{{ printf "{%s,le=\"86400.0\"}" $s }}[{{ index . 1 }}]))
{{- end -}}

{{/* Journeys per second that a good payload entitles to be registered. */}}
{{- define "journey-consumer.entitledRate" -}}
{{- $s := include "journey-consumer.matchers" (index . 0) -}}
sum(rate(journey_consumer_journeys_total{{ printf "{%s,outcome!~\"invalid|rejected\"}" $s }}[{{ index . 1 }}]))
{{- end -}}
