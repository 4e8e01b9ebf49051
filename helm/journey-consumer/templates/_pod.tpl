{{/* What all pods of the chart share. */}}
{{- define "journey-consumer.podBasics" -}}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- range $field := list "runtimeClassName" "schedulerName" "dnsPolicy" }}
{{- with get $.Values $field }}
{{ $field }}: {{ . | quote }}
{{- end }}
{{- end }}
{{- range $field := list "hostAliases" "dnsConfig" }}
{{- with get $.Values $field }}
{{ $field }}:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
securityContext:
  {{- include "journey-consumer.withoutNulls" .Values.podSecurityContext | nindent 2 }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "journey-consumer.containerBasics" -}}
image: {{ include "journey-consumer.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  {{- include "journey-consumer.withoutNulls" .Values.securityContext | nindent 2 }}
resources:
  {{- toYaml .Values.resources | nindent 2 }}
{{- end -}}

{{/* Secrets arrive as a directory of files named like the settings, so that a rotated one reaches the
     running process: neither an environment variable nor a subPath mount would change. */}}
{{- define "journey-consumer.secretsVolume" -}}
{{- if .Values.secrets.volume }}
- name: secrets
  {{- toYaml .Values.secrets.volume | nindent 2 }}
{{- else if not .Values.secrets.directory }}
- name: secrets
  projected:
    defaultMode: 0440
    sources:
      - secret:
          name: {{ .Values.broker.existingSecret | quote }}
          items:
            - key: {{ .Values.broker.key | quote }}
              path: BROKER_URL
      {{- with .Values.registry.token }}
      {{- if .existingSecret }}
      - secret:
          name: {{ .existingSecret | quote }}
          items:
            - key: {{ .key | quote }}
              path: REGISTRY_TOKEN
      {{- end }}
      {{- end }}
      {{- with .Values.registry.accessKeys }}
      {{- if .existingSecret }}
      - secret:
          name: {{ .existingSecret | quote }}
          items:
            - key: {{ .accessKeyKey | quote }}
              path: REGISTRY_ACCESS_KEY
            - key: {{ .secretKeyKey | quote }}
              path: REGISTRY_SECRET_KEY
      {{- end }}
      {{- end }}
      {{- with .Values.registry.proxy }}
      {{- if .existingSecret }}
      - secret:
          name: {{ .existingSecret | quote }}
          items:
            - key: {{ .key | quote }}
              path: REGISTRY_PROXY_URL
      {{- end }}
      {{- end }}
{{- end }}
{{- end -}}

{{- define "journey-consumer.secretsMount" -}}
{{- if or .Values.secrets.volume (not .Values.secrets.directory) }}
- name: secrets
  mountPath: {{ include "journey-consumer.secretsDirectory" . }}
  readOnly: true
{{- end }}
{{- end -}}

{{- define "journey-consumer.secretsDirectory" -}}
{{- default "/run/secrets/journey-consumer" .Values.secrets.directory -}}
{{- end -}}

{{/* Certificates of one side: (list context "broker" | "registry"). */}}
{{- define "journey-consumer.caVolume" -}}
{{- with (get (index . 0).Values (index . 1)).caBundle.existingConfigMap }}
- name: {{ index $ 1 }}-ca
  configMap:
    name: {{ . | quote }}
{{- end }}
{{- end -}}

{{- define "journey-consumer.caMount" -}}
{{- if (get (index . 0).Values (index . 1)).caBundle.existingConfigMap }}
- name: {{ index . 1 }}-ca
  mountPath: /etc/journey-consumer/{{ index . 1 }}-ca
  readOnly: true
{{- end }}
{{- end -}}

{{- define "journey-consumer.volumes" -}}
{{ include "journey-consumer.secretsVolume" . }}
{{- include "journey-consumer.caVolume" (list . "registry") }}
{{- include "journey-consumer.caVolume" (list . "broker") }}
{{- with .Values.eventMapping.existingConfigMap }}
- name: mapping
  configMap:
    name: {{ . | quote }}
{{- end }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "journey-consumer.mounts" -}}
{{ include "journey-consumer.secretsMount" . }}
{{- include "journey-consumer.caMount" (list . "registry") }}
{{- include "journey-consumer.caMount" (list . "broker") }}
{{- if .Values.eventMapping.existingConfigMap }}
- name: mapping
  mountPath: /etc/journey-consumer/mapping
  readOnly: true
{{- end }}
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "journey-consumer.environment" -}}
envFrom:
  - configMapRef:
      name: {{ include "journey-consumer.fullname" . | quote }}
{{- with .Values.extraEnvFrom }}
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.extraEnv }}
env:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}
