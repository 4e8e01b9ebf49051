{{/* Values that contradict each other. Every sentence says what to change; all are reported together. */}}
{{- define "journey-consumer.problems" -}}
{{- include "journey-consumer.missing" . -}}
{{- include "journey-consumer.scaleProblems" . -}}
{{- include "journey-consumer.otherProblems" . -}}
{{- include "journey-consumer.podProblems" . -}}
{{- include "journey-consumer.clusterProblems" . -}}
{{- end -}}

{{- define "journey-consumer.missing" -}}
{{- if not .Values.image.repository }}
- image.repository is not set: build the image from the Dockerfile, push it where the cluster can pull it, and name it here.
{{- end }}
{{- $token := .Values.registry.token.existingSecret }}
{{- $keys := .Values.registry.accessKeys.existingSecret }}
{{- if or .Values.secrets.directory .Values.secrets.volume }}
{{- if or .Values.broker.existingSecret $token $keys .Values.registry.proxy.existingSecret }}
- secrets.directory or secrets.volume is set, and so is an existingSecret of broker or registry: keep one of both ways.
{{- end }}
{{- else }}
{{- if not .Values.broker.existingSecret }}
- broker.existingSecret is not set: name the Secret that holds the broker's address (key "{{ .Values.broker.key }}").
{{- end }}
{{- if and $token $keys }}
- registry.token.existingSecret and registry.accessKeys.existingSecret are both set: keep one of them.
{{- end }}
{{- if not (or $token $keys) }}
- no credentials of the Registry are named: set registry.token.existingSecret, or registry.accessKeys.existingSecret for v3.3.
{{- end }}
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
- autoscaling.keda.existingSecret is not set: name the Secret with user and password of a broker user that may use the management API.
{{- end }}
{{- if ne (empty $scaling.keda.caKey) (empty $scaling.keda.tlsKey) }}
- autoscaling.keda.caKey and autoscaling.keda.tlsKey belong together: KEDA uses the certificates only when the other key says "enable".
{{- end }}
{{- with $scaling.keda.fallback }}
{{- if not (and .failureThreshold .replicas) }}
- autoscaling.keda.fallback needs failureThreshold and replicas.
{{- end }}
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
{{- if and (hasPrefix "http://" .Values.registry.url) (ne (toString .Values.settings.REGISTRY_ALLOW_HTTP) "true") }}
- registry.url is plain http: journeys and token would travel in the clear. Use https, or set settings.REGISTRY_ALLOW_HTTP to true for a sandbox.
{{- end }}
{{- if regexMatch "/(v[0-9.]+|journeys)(/|$)" (regexReplaceAll "^https?://[^/]*" .Values.registry.url "") }}
- registry.url has a version or a route: they follow from registry.apiVersion, so leave them out.
{{- end }}
{{- range $name := list "podMonitor" "serviceMonitor" }}
{{- $monitor := get $.Values.monitoring $name }}
{{- if gt (include "journey-consumer.milliseconds" $monitor.scrapeTimeout | int64) (include "journey-consumer.milliseconds" $monitor.interval | int64) }}
- monitoring.{{ $name }}.scrapeTimeout ({{ $monitor.scrapeTimeout }}) exceeds its interval ({{ $monitor.interval }}): Prometheus refuses that.
{{- end }}
{{- end }}
{{- $pdb := .Values.podDisruptionBudget }}
{{- if not (or (kindIs "invalid" $pdb.minAvailable) (kindIs "invalid" $pdb.maxUnavailable)) }}
- podDisruptionBudget.maxUnavailable and podDisruptionBudget.minAvailable are both set: keep one of them.
{{- end }}
{{- if and .Values.monitoring.serviceMonitor.enabled (not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" (include "journey-consumer.fullname" .))) }}
- the name "{{ include "journey-consumer.fullname" . }}" is not possible for a Service, which must begin with a letter and have no dot: set fullnameOverride, or use monitoring.podMonitor.
{{- end }}
{{- if and .Values.monitoring.podMonitor.enabled .Values.monitoring.serviceMonitor.enabled }}
- monitoring.podMonitor and monitoring.serviceMonitor are both enabled: every series would be counted twice. Keep one.
{{- end }}
{{- if and .Values.eventMapping.name .Values.eventMapping.existingConfigMap }}
- eventMapping.name and eventMapping.existingConfigMap are both set: keep one of them.
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

{{/* What the API server would refuse in the pods. */}}
{{- define "journey-consumer.podProblems" -}}
{{- with .Values.updateStrategy.rollingUpdate }}
{{- if and (eq $.Values.updateStrategy.type "RollingUpdate") (has (toString .maxSurge) (list "0" "0%")) (has (toString .maxUnavailable) (list "0" "0%")) }}
- updateStrategy.rollingUpdate has 0 for both maxSurge and maxUnavailable: no pod could ever be replaced.
{{- end }}
{{- end }}
{{- $limits := default dict .Values.resources.limits }}
{{- range $name, $request := default dict .Values.resources.requests }}
{{- if hasKey $limits $name }}
{{- $limit := get $limits $name }}
{{- if gt (include "journey-consumer.amount" $request | float64) (include "journey-consumer.amount" $limit | float64) }}
- resources.requests.{{ $name }} ({{ $request }}) exceeds resources.limits.{{ $name }} ({{ $limit }}).
{{- end }}
{{- end }}
{{- end }}
{{- $seen := dict }}
{{- range .Values.topologySpreadConstraints }}
{{- $which := printf "%s %s" .topologyKey .whenUnsatisfiable }}
{{- if hasKey $seen $which }}
- topologySpreadConstraints has {{ $which }} twice: keep one.
{{- end }}
{{- $_ := set $seen $which true }}
{{- end }}
{{- $volumes := dict "secrets" true "registry-ca" true "broker-ca" true "mapping" true }}
{{- range .Values.extraVolumes }}
{{- if hasKey $volumes .name }}
- extraVolumes has the name "{{ .name }}" twice, or it is one of the chart's own: rename it.
{{- end }}
{{- $_ := set $volumes .name true }}
{{- end }}
{{- $paths := dict (include "journey-consumer.secretsDirectory" .) true "/etc/journey-consumer/registry-ca" true "/etc/journey-consumer/broker-ca" true "/etc/journey-consumer/mapping" true }}
{{- range .Values.extraVolumeMounts }}
{{- if not (hasKey $volumes .name) }}
- extraVolumeMounts names the volume "{{ .name }}", which extraVolumes does not have.
{{- end }}
{{- $path := trimSuffix "/" .mountPath }}
{{- if and (hasKey $paths $path) (not (and (eq $path $.Values.secrets.directory) (not $.Values.secrets.volume))) }}
- extraVolumeMounts mounts {{ $path }} twice, or it is one of the chart's own.
{{- end }}
{{- $_ := set $paths $path true }}
{{- end }}
{{- $containers := dict "consumer" true "check" true }}
{{- range concat .Values.initContainers .Values.extraContainers }}
{{- if hasKey $containers .name }}
- initContainers and extraContainers have the name "{{ .name }}" twice, or it is the chart's own: rename it.
{{- end }}
{{- $_ := set $containers .name true }}
{{- end }}
{{- $variables := dict }}
{{- range .Values.extraEnv }}
{{- if hasKey $variables .name }}
- extraEnv sets {{ .name }} twice.
{{- end }}
{{- $_ := set $variables .name true }}
{{- end }}
{{- if and (eq .Values.dnsPolicy "None") (not .Values.dnsConfig.nameservers) }}
- dnsPolicy "None" needs dnsConfig.nameservers.
{{- end }}
{{- end -}}

{{/* What this cluster would refuse now; `helm template` knows no cluster. */}}
{{- define "journey-consumer.clusterProblems" -}}
{{- if and (eq .Values.autoscaling.type "keda") (lookup "autoscaling/v2" "HorizontalPodAutoscaler" .Release.Namespace (include "journey-consumer.fullname" .)) }}
- autoscaling.type changes from "hpa" to "keda", and KEDA refuses a Deployment that has an autoscaler: upgrade with type "none" first (the scale stays), then with "keda".
{{- end }}
{{- end -}}

{{/* A Kubernetes quantity as a number: "100m" is 0.1, "1Ki" is 1024. */}}
{{- define "journey-consumer.amount" -}}
{{- $text := include "journey-consumer.plain" . -}}
{{- $suffix := regexFind "[a-zA-Z]+$" $text -}}
{{- $factors := dict "" 1 "m" 0.001 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "P" 1e15 "E" 1e18 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 "Pi" 1125899906842624 "Ei" 1152921504606846976 -}}
{{- mulf (trimSuffix $suffix $text | float64) (get $factors $suffix) -}}
{{- end -}}

{{/* A duration of Prometheus such as 1m30s, in milliseconds. */}}
{{- define "journey-consumer.milliseconds" -}}
{{- $units := dict "ms" 1 "s" 1000 "m" 60000 "h" 3600000 "d" 86400000 "w" 604800000 -}}
{{- $sum := 0 -}}
{{- range regexFindAll "[0-9]+(ms|[smhdw])" . -1 -}}
{{- $sum = add $sum (mul (regexFind "[0-9]+" . | int64) (get $units (regexFind "[a-z]+" .))) -}}
{{- end -}}
{{- $sum -}}
{{- end -}}
