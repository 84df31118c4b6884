package main

import corev1 "k8s.io/api/core/v1"

// status is of the length of Tulle's, about a pod of five containers.
const status = `{"version":"v2","mode":"host","hash":"b53c74d17bf38220","proxy":"http://$(TULLE_HOST_IP):4140","env":["NODE_NAME","TULLE_HOST_IP","http_proxy","HTTP_PROXY","no_proxy","NO_PROXY"],"containers":["app-0","app-1","app-2","app-3","app-4"]}`

const (
	proxy   = "http://$(TULLE_HOST_IP):4140"
	noProxy = "localhost,127.0.0.1,::1,169.254.169.254,fd00:ec2::254,169.254.170.2,169.254.170.23,fd00:ec2::23,metadata.google.internal," +
		"168.63.129.16,100.100.100.200,kubernetes,kubernetes.default,kubernetes.default.svc,kubernetes.default.svc.cluster.local,$(KUBERNETES_SERVICE_HOST)"
)

// variables are those that Tulle's host mode gives a container.
func variables() []corev1.EnvVar {
	field := func(name, path string) corev1.EnvVar {
		return corev1.EnvVar{Name: name, ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: path}}}
	}
	return []corev1.EnvVar{
		field("NODE_NAME", "spec.nodeName"), field("TULLE_HOST_IP", "status.hostIP"),
		{Name: "http_proxy", Value: proxy}, {Name: "HTTP_PROXY", Value: proxy},
		{Name: "no_proxy", Value: noProxy}, {Name: "NO_PROXY", Value: noProxy},
	}
}
