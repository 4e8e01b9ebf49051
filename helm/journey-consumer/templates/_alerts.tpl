{{/* The groups of the PrometheusRule, as they are written: without links, and with what is switched off. */}}
{{- define "journey-consumer.ruleGroups" -}}
{{- $t := .Values.monitoring.rules.thresholds }}
{{- $s := printf "{%s}" (include "journey-consumer.matchers" .) }}
{{- $with := printf "{%s," (include "journey-consumer.matchers" .) }}
{{- $recorded := printf "{namespace=%q,release=%q}" .Release.Namespace .Release.Name }}
{{- $main := include "journey-consumer.mainQueue" . }}
{{- $waiting := include "journey-consumer.brokerMetric" (list . "queue_messages" $main) }}
{{- $ready := include "journey-consumer.brokerMetric" (list . "queue_messages_ready" $main) }}
{{- $consumers := include "journey-consumer.brokerMetric" (list . "queue_consumers" $main) }}
{{- $dead := include "journey-consumer.brokerMetric" (list . "queue_messages" (include "journey-consumer.deadLetterQueues" .)) }}
- name: {{ printf "journey-consumer.%s.%s.slo" .Release.Namespace .Release.Name }}
  rules:
    {{- range $window := list "5m" "30m" "1h" "6h" "3d" }}
    - record: release:journey_consumer_errors:ratio_rate{{ $window }}
      expr: |-
        (
          {{- include "journey-consumer.errorRate" (list $ $window) | nindent 10 }}
        )
        / ({{ include "journey-consumer.entitledRate" (list $ $window) }} > 0)
      labels:
        {{- include "journey-consumer.ruleLabels" (list $ "") | nindent 8 }}
    {{- end }}
    {{- range $window := list "1h" "6h" "3d" }}
    - record: release:journey_consumer_entitled:rate{{ $window }}
      expr: |-
        {{ include "journey-consumer.entitledRate" (list $ $window) }}
      labels:
        {{- include "journey-consumer.ruleLabels" (list $ "") | nindent 8 }}
    {{- end }}
    {{- range $burn := list (list "14.4" "1h" "5m" "2m" "critical") (list "6" "6h" "30m" "15m" "critical") (list "1" "3d" "6h" "1h" "warning") }}
    - alert: JourneysErrorBudgetBurn
      expr: |-
        release:journey_consumer_errors:ratio_rate{{ index $burn 1 }}{{ $recorded }} > {{ index $burn 0 }} * (1 - {{ $t.objective }})
        and release:journey_consumer_errors:ratio_rate{{ index $burn 2 }}{{ $recorded }} > {{ index $burn 0 }} * (1 - {{ $t.objective }})
        and release:journey_consumer_entitled:rate{{ index $burn 1 }}{{ $recorded }} * 3600 > {{ include "journey-consumer.plain" $t.minimumJourneysPerHour }}
      for: {{ index $burn 3 }}
      labels:
        {{- include "journey-consumer.ruleLabels" (list $ (index $burn 4)) | nindent 8 }}
        window: {{ index $burn 1 }}
      annotations:
        summary: Too many journeys are not registered in time.
        description: >-
          {{ "{{ $value | humanizePercentage }}" }} of the journeys of the last {{ index $burn 1 }} were dead-lettered for a
          reason that is not in their payload, or registered after more than 24 hours:
          {{ index $burn 0 }} times what the objective {{ $t.objective }} allows.
    {{- end }}
- name: {{ printf "journey-consumer.%s.%s" .Release.Namespace .Release.Name }}
  rules:
    - alert: JourneysTokenRejected
      expr: |-
        min(journey_consumer_token_accepted{{ $s }}) == 0
        or max(journey_consumer_paused{{ $with }}cause=~"unauthorized|forbidden"}) == 1
      for: {{ $t.tokenRejectedFor }}
      labels:
        {{- include "journey-consumer.ruleLabels" (list . "critical") | nindent 8 }}
      annotations:
        summary: The Registry refuses our token; no journey is registered.
        description: >-
          For {{ $t.tokenRejectedFor }} the Registry has refused the token, or has accepted it for no journey.
          Consumption is paused; a valid token in the Secret resumes it without a restart.
    {{- $left := printf "min_over_time(min(journey_consumer_oldest_pending_start_timestamp_seconds%s > 0)[2m:15s]) + 86400 - time()" $s }}
    {{- $critical := include "journey-consumer.plain" $t.timeLeftCriticalSeconds }}
    {{- $warning := include "journey-consumer.plain" $t.timeLeftWarningSeconds }}
    # One at a time: below the second limit the warning ends. What is too late has no time left, never less.
    # Over two minutes: a journey that is registered at once does not stay.
    {{- range $level := list (list "critical" (printf "clamp_min(%s, 0) < %s" $left $critical)) (list "warning" (printf "%s < %s >= %s" $left $warning $critical)) }}
    - alert: JourneysDeadlineAtRisk
      expr: |-
        {{ index $level 1 }}
      for: 5m
      labels:
        {{- include "journey-consumer.ruleLabels" (list $ (index $level 0)) | nindent 8 }}
      annotations:
        summary: Journeys are about to become too old to be registered.
        description: >-
          {{ "{{ $value | humanizeDuration }}" }} are left until the oldest journey that the consumer has received
          is 24 hours old; then the Registry refuses it, and its proof is lost. The queue can hold older ones.
    {{- end }}
    - alert: JourneysDeadlineMissed
      expr: |-
        sum(increase(journey_consumer_deadline_missed_total{{ $s }}[1h])) > 0
        or sum(increase(journey_consumer_journeys_total{{ $with }}outcome="expired"}[1h])) > 0
      labels:
        {{- include "journey-consumer.ruleLabels" (list . "warning") | nindent 8 }}
      annotations:
        summary: Journeys became too old to be registered.
        description: >-
          About {{ "{{ $value | humanize }}" }} journeys of the last hour were dead-lettered more than 24 hours
          after their start, or refused as expired. Their proofs are lost: find out what delayed them.
    # Not of exchanged tokens: they live for minutes, and are renewed when a journey is sent.
    - alert: JourneysTokenExpires
      expr: |-
        clamp_min(
          min(
            journey_consumer_token_expiry_timestamp_seconds{{ $s }} > 0
            and journey_consumer_token_expiry_timestamp_seconds{{ $s }} - journey_consumer_token_loaded_timestamp_seconds{{ $s }} > 3600
          ) - time(), 0
        ) < 604800
      for: 10m
      labels:
        {{- include "journey-consumer.ruleLabels" (list . "warning") | nindent 8 }}
      annotations:
        summary: The token for the Registry expires soon, or has expired.
        description: >-
          {{ "{{ $value | humanizeDuration }}" }} are left by the token's own date.
          Without a valid token no journey is registered.
    - alert: JourneysDeadLettering
      expr: |-
        sum by (reason) (increase(journey_consumer_dead_lettered_total{{ $s }}[1h])) > {{ include "journey-consumer.plain" $t.deadLettersPerHour }}
      labels:
        {{- include "journey-consumer.ruleLabels" (list . "warning") | nindent 8 }}
      annotations:
        summary: Many journeys are dead-lettered as {{ "{{ $labels.reason }}" }}.
        description: >-
          About {{ "{{ $value | humanize }}" }} journeys of the last hour were dead-lettered as
          {{ "{{ $labels.reason }}" }}. Fix the cause, then replay them.
    - alert: JourneysDeadLetterQueueNotEmpty
      expr: |-
        max by (queue) ({{ $dead }}) > {{ include "journey-consumer.plain" $t.deadLettersWaiting }}
      for: {{ $t.deadLettersWaitingFor }}
      labels:
        {{- include "journey-consumer.ruleLabels" (list . "warning") | nindent 8 }}
      annotations:
        summary: Dead letters wait in {{ "{{ $labels.queue }}" }}.
        description: >-
          {{ "{{ $value | humanize }}" }} dead letters wait. They can be registered only until 24 hours after
          each journey's start.
    - alert: JourneysDeadLetterRefused
      expr: |-
        sum by (reason, cause) (rate(journey_consumer_dead_letters_refused_total{{ $s }}[5m])) > 0
      for: 10m
      labels:
        {{- include "journey-consumer.ruleLabels" (list . "warning") | nindent 8 }}
      annotations:
        summary: {{ printf "The broker refuses dead letters for %s.dead-letter.{{ $labels.reason }}: {{ $labels.cause }}." (.Values.queue.name | replace "{{" "{ {") | quote }}
        description: >-
          For ten minutes publishes to the queue were {{ "{{ $labels.cause }}" }} (nacked: its length limit? returned: no
          such queue?). Its dead letters wait and are tried again; all other journeys go on.
    {{- range $level := list (list "critical" "unauthorized|forbidden|exhausted|delivery-limit") (list "warning" "invalid|rejected") }}
    # Ten minutes are two reads by default: dead letters that the service replays meanwhile do not alert.
    - alert: JourneysDeadLetterDeadlineNear
      expr: |-
        min by (reason) (
          journey_consumer_dead_letters_oldest_deadline_timestamp_seconds{{ $with }}reason=~"{{ index $level 1 }}"} > time()
        ) - time() < {{ include "journey-consumer.plain" $t.deadLetterTimeLeftSeconds }}
      for: 10m
      labels:
        {{- include "journey-consumer.ruleLabels" (list $ (index $level 0)) | nindent 8 }}
      annotations:
        summary: A dead letter of the reason {{ "{{ $labels.reason }}" }} is about to become too old to be registered.
        description: >-
          {{ "{{ $value | humanizeDuration }}" }} are left to fix and replay it; then its journey is 24 hours old,
          the Registry refuses it, and its proof is lost.
    {{- end }}
    - alert: JourneysRegistryUnavailable
      expr: |-
        max(journey_consumer_breaker_state{{ $with }}cause="unavailable"}) > 0
      for: {{ $t.registryUnavailableFor }}
      labels:
        {{- include "journey-consumer.ruleLabels" (list . "warning") | nindent 8 }}
      annotations:
        summary: The Registry is down or cannot be reached.
        description: >-
          For {{ $t.registryUnavailableFor }} submissions have failed and consumption is paused. Journeys wait in
          the queue; each can be registered until 24 hours after its start.
    - alert: JourneysRegistryMisconfigured
      expr: |-
        max(journey_consumer_breaker_state{{ $with }}cause="misconfigured"}) > 0
      for: {{ $t.registryUnavailableFor }}
      labels:
        {{- include "journey-consumer.ruleLabels" (list . "critical") | nindent 8 }}
      annotations:
        summary: The Registry does not know the address or the version that we send to.
        description: >-
          For {{ $t.registryUnavailableFor }} the Registry has answered that the route does not exist.
          Consumption stays paused until registry.url or registry.apiVersion is corrected.
    - alert: JourneysThrottled
      expr: |-
        sum(rate(journey_consumer_registry_requests_total{{ $with }}code="429"}[5m])) > 0
      for: {{ $t.throttledFor }}
      labels:
        {{- include "journey-consumer.ruleLabels" (list . "warning") | nindent 8 }}
      annotations:
        summary: The Registry throttles our requests.
        description: >-
          For {{ $t.throttledFor }} there were {{ "{{ $value | humanize }}" }} answers 429 per second: pods, other
          releases or tools behind the same address exceed the limit together.
    - alert: JourneysConsumerAbsent
      expr: |-
        absent(journey_consumer_build_info{{ $s }})
      for: {{ $t.consumerAbsentFor }}
      labels:
        {{- include "journey-consumer.ruleLabels" (list . "critical") | nindent 8 }}
      annotations:
        summary: No pod of the consumer is running, or Prometheus finds none.
        description: For {{ $t.consumerAbsentFor }} there were no metrics of any pod of this release.
    - alert: JourneysDisconnected
      expr: |-
        max by (connection) (journey_consumer_broker_connected{{ $s }}) == 0
      for: {{ $t.disconnectedFor }}
      labels:
        {{- include "journey-consumer.ruleLabels" (list . "critical") | nindent 8 }}
      annotations:
        summary: No pod is connected to the broker.
        description: >-
          For {{ $t.disconnectedFor }} no pod has had its connection to {{ "{{ $labels.connection }}" }}.
    - alert: JourneysDisconnected
      expr: |-
        min by (connection) (journey_consumer_broker_connected{{ $s }}) == 0
        and max by (connection) (journey_consumer_broker_connected{{ $s }}) == 1
      for: {{ $t.disconnectedFor }}
      labels:
        {{- include "journey-consumer.ruleLabels" (list . "warning") | nindent 8 }}
      annotations:
        summary: A pod is not connected to the broker.
        description: >-
          For {{ $t.disconnectedFor }} a pod has not had its connection to {{ "{{ $labels.connection }}" }},
          while others have.
    # JourneysDisconnected is about its connection; this also about a broker that is blocked, or confirms nothing.
    - alert: JourneysPublisherStuck
      expr: |-
        max(journey_consumer_paused{{ $with }}cause="publisher"}) == 1
      for: 10m
      labels:
        {{- include "journey-consumer.ruleLabels" (list . "critical") | nindent 8 }}
      annotations:
        summary: The broker does not take what the consumer publishes.
        description: >-
          For ten minutes a pod has not been able to publish dead letters and retries. They stay unacknowledged;
          when the prefetch is full of them nothing is consumed any more.
    - alert: JourneysStalled
      expr: |-
        max({{ $ready }}) > 0
        and sum(increase(journey_consumer_deliveries_total{{ $s }}[{{ $t.stalledFor }}])) == 0
        and max(journey_consumer_broker_connected{{ $with }}connection="consume"}) == 1
        unless max(journey_consumer_paused{{ $s }}) == 1
      for: 2m
      labels:
        {{- include "journey-consumer.ruleLabels" (list . "critical") | nindent 8 }}
      annotations:
        summary: Messages wait, and none is delivered to the consumer.
        description: >-
          {{ "{{ $value | humanize }}" }} messages wait, the consumer is connected and not paused, and for
          {{ $t.stalledFor }} it has received none.
    # A pause cancels the consumer on purpose; it has alerts of its own.
    - alert: JourneysQueueHasNoConsumers
      expr: |-
        max by (queue) ({{ $consumers }}) == 0 unless on () max(journey_consumer_paused{{ $s }}) == 1
      for: {{ $t.noConsumersFor }}
      labels:
        {{- include "journey-consumer.ruleLabels" (list . "critical") | nindent 8 }}
      annotations:
        summary: No consumer on {{ "{{ $labels.queue }}" }}.
        description: For {{ $t.noConsumersFor }} the broker has seen no consumer on the queue.
    - alert: JourneysQueueGrowing
      expr: |-
        max by (queue) ({{ $waiting }}) > {{ include "journey-consumer.plain" $t.backlogMessages }}
        and deriv(max by (queue) ({{ $waiting }})[10m:15s]) > 0
      for: {{ $t.queueGrowingFor }}
      labels:
        {{- include "journey-consumer.ruleLabels" (list . "warning") | nindent 8 }}
      annotations:
        summary: The queue {{ "{{ $labels.queue }}" }} keeps growing.
        description: >-
          {{ "{{ $value | humanize }}" }} messages wait, and for {{ $t.queueGrowingFor }} more were published
          than settled.
    # Without these series what is about queues cannot fire.
    - alert: JourneysBrokerMetricsAbsent
      expr: |-
        absent({{ $waiting }}) or absent({{ $ready }}) or absent({{ $consumers }})
      for: 15m
      labels:
        {{- include "journey-consumer.ruleLabels" (list . "warning") | nindent 8 }}
      annotations:
        summary: Prometheus has no metrics of the queue {{ "{{ $labels.queue }}" }}.
        description: >-
          For 15 minutes Prometheus has not had all three of messages, ready messages and consumers of the queue.
          JourneysStalled, JourneysQueueHasNoConsumers, JourneysQueueGrowing and JourneysDeadLetterQueueNotEmpty cannot fire.
{{- end -}}
