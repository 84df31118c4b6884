{{/* Labels of every object. Call with a dict of root and component. */}}
{{- define "tulle.labels" -}}
app.kubernetes.io/name: tulle
app.kubernetes.io/component: {{ .component }}
app.kubernetes.io/part-of: tulle
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
{{- end }}

{{/* Labels that select the pods of a component. */}}
{{- define "tulle.selector" -}}
app.kubernetes.io/name: tulle
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* What Pod Security "restricted" asks of a container, and no more than that is given. */}}
{{- define "tulle.containerSecurity" -}}
allowPrivilegeEscalation: false
capabilities:
  drop: [ALL]
readOnlyRootFilesystem: true
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "tulle.issuerRef" -}}
name: {{ .Values.issuer.name | quote }}
kind: {{ .Values.issuer.kind | quote }}
group: {{ .Values.issuer.group | quote }}
{{- end }}

{{- define "tulle.controllerURL" -}}
https://tulle-controller.{{ .Release.Namespace }}.svc:4181
{{- end }}

{{/* The namespace of the injector's probe of itself. */}}
{{- define "tulle.probeNamespace" -}}
{{ .Release.Namespace | trunc 57 | trimSuffix "-" }}-probe
{{- end }}

{{/* The settings of tulle-controller, as YAML. */}}
{{- define "tulle.controllerSettings" -}}
{{- $r := .Values.injector.resources -}}
{{- $requests := default dict (get $r "requests") -}}
{{- $limits := default dict (get $r "limits") -}}
{{- $inject := dict
  "default-mode" .Values.injector.defaultMode
  "proxy-image" .Values.proxy.image
  "proxy-pull-policy" .Values.imagePullPolicy
  "controller-url" (include "tulle.controllerURL" .)
  "dtab-namespace" .Values.injector.dtabNamespace
  "excluded-namespaces" (join "," .Values.injector.excludedNamespaces)
  "host-address" .Values.injector.hostAddress
  "native-sidecar" (toString .Values.injector.nativeSidecar)
  "escaped" .Values.injector.escaped
  "stale" .Values.injector.stale
  "repairs-per-minute" (int .Values.injector.repairsPerMinute)
  "image-pull-secrets" (join "," .Values.injector.imagePullSecrets)
  "architectures" (join "," .Values.injector.architectures) -}}
{{- range $key, $value := dict "proxy-cpu-request" (get $requests "cpu") "proxy-cpu-limit" (get $limits "cpu") "proxy-memory-request" (get $requests "memory") "proxy-memory-limit" (get $limits "memory") }}
{{- if $value }}{{ $_ := set $inject $key (toString $value) }}{{ end }}
{{- end }}
{{- dict
  "webhook-address" ":8443"
  "namer-address" ":4180"
  "mesh-address" ":4181"
  "admin-address" ":9990"
  "webhook-certificate" (eq .Values.injector.certificate "self" | ternary "self" "file")
  "probe-namespace" (and .Values.injector.probe .Values.injector.webhook | ternary (include "tulle.probeNamespace" .) "")
  "tls-cert-file" "/etc/tulle/tls/tls.crt"
  "tls-key-file" "/etc/tulle/tls/tls.key"
  "ca-file" "/etc/tulle/tls/ca.crt"
  "namespace" .Release.Namespace
  "trust-domain" .Values.trustDomain
  "issuer-name" .Values.issuer.name
  "issuer-kind" .Values.issuer.kind
  "issuer-group" .Values.issuer.group
  "certificate-duration" .Values.issuer.certificateDuration
  "log-level" .Values.logLevel
  "dtab-store" "kubernetes"
  "dtabs" .Values.dtabs
  "namers" .Values.namers
  "namer-access" .Values.namer.access
  "config-maps" (join "," .Values.namer.configMaps)
  "policy" "/etc/tulle/policy.yaml"
  "inject" $inject | toYaml }}
{{- end }}
