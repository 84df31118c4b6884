package main

import (
	"bytes"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/naming/namer/namerd"
)

const kubeconfig = `apiVersion: v1
kind: Config
clusters: [{name: a, cluster: {server: "https://192.0.2.1:6443"}}]
contexts: [{name: a, context: {cluster: a, user: a}}]
users: [{name: a, user: {token: x}}]
current-context: a
`

func TestReach(t *testing.T) {
	file := write(t, "kubeconfig", kubeconfig)
	for name, tt := range map[string]struct {
		kubeconfig, inCluster, said string
		host, warns                 string
	}{
		"beside kubectl proxy":                       {said: "localhost:8001", host: "http://localhost:8001"},
		"where the file says":                        {said: "k8s.corp.test:8080", host: "http://k8s.corp.test:8080"},
		"by a kubeconfig, the file at kubectl proxy": {kubeconfig: file, said: "127.0.0.1:8001", host: "https://192.0.2.1:6443"},
		"nothing but access":                         {host: "http://localhost:8001"},
		"by a kubeconfig":                            {kubeconfig: file, inCluster: "10.0.0.1", said: "localhost:8001", host: "https://192.0.2.1:6443"},
		"by a kubeconfig, the file elsewhere":        {kubeconfig: file, said: "other:8001", host: "https://192.0.2.1:6443", warns: "host and port of Kubernetes have no effect: the kubeconfig " + file + " says where it is"},
		// Here there is no service account, as in a pod that is given none.
		"in a pod without a token": {inCluster: "10.0.0.1", said: "localhost:8001", host: "http://localhost:8001"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("KUBERNETES_SERVICE_HOST", tt.inCluster)
			t.Setenv("KUBERNETES_SERVICE_PORT", "443")
			t.Setenv("http_proxy", "http://192.0.2.9:1")
			var log bytes.Buffer
			config, err := reach(tt.kubeconfig, &namerd.Config{File: "namerd.yaml", Kubernetes: tt.said}, slog.New(slog.NewTextHandler(&log, nil)))
			if err != nil || config.Host != tt.host {
				t.Fatalf("%+v %v", config, err)
			}
			if got := log.String(); !strings.Contains(got, tt.warns) || tt.warns == "" && got != "" {
				t.Errorf("it logs %s", got)
			}
			if config.Proxy != nil {
				if via, err := config.Proxy(&http.Request{}); via != nil || err != nil {
					t.Errorf("it is asked through %s, %v", via, err)
				}
			}
			if _, err := connect(config); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestNeedsKubernetes(t *testing.T) {
	const interfaces = "interfaces: [{kind: io.l5d.httpController"
	const memory = "storage: {kind: io.l5d.inMemory}\n" + interfaces
	for text, want := range map[string][2]bool{ // needs it, and for Services
		memory + "}]": {},
		memory + "}]\nnamers: [{kind: io.l5d.fs, rootDir: /a}]":                                                  {},
		memory + ", access: rbac}]":                                                                              {true, false},
		"storage: {kind: io.l5d.k8s}\n" + interfaces + "}]":                                                      {true, false},
		memory + "}]\nnamers: [{kind: io.l5d.k8s}]":                                                              {true, true},
		memory + "}]\nnamers: [{kind: io.l5d.k8s.external}]":                                                     {true, true},
		memory + "}]\nnamers: [{kind: io.l5d.fs, rootDir: /a, transformers: [{kind: io.l5d.port, port: 4141}]}]": {},
		memory + "}]\nnamers: [{kind: io.l5d.fs, rootDir: /a, transformers: [{kind: io.l5d.k8s.daemonset, namespace: default, service: l5d, port: incoming}]}]": {true, true},
	} {
		c, err := namerd.Parse("namerd.yaml", []byte(text))
		if err != nil {
			t.Error(err)
			continue
		}
		if got := [2]bool{asksKubernetes(c), usesServices(c)}; got != want {
			t.Errorf("%s: got %v, want %v", text, got, want)
		}
	}
}
