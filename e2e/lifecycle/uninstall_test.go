//go:build e2e

package lifecycle

import (
	"strings"
	"testing"

	installing "github.com/tulle-mesh/tulle/cmd/tulle/install"

	"github.com/tulle-mesh/tulle/e2e/cluster/apitest"
)

const pods = `
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {tulle.dev/inject: enabled}}
---
apiVersion: v1
kind: Pod
metadata:
  name: web-5d8f-x1
  namespace: shop
  labels: {tulle.dev/mode: host, pod-template-hash: 5d8f}
  annotations: {tulle.dev/status: "{}"}
  ownerReferences: [{apiVersion: apps/v1, kind: ReplicaSet, name: web-5d8f, uid: a, controller: true}]
spec: {containers: [{name: app, image: app}]}
---
apiVersion: v1
kind: Pod
metadata:
  name: batch
  namespace: shop
  labels: {tulle.dev/mode: sidecar}
  annotations: {tulle.dev/status: "{}"}
spec: {containers: [{name: app, image: app}]}
`

const aDtab = `{"apiVersion":"l5d.io/v1alpha1","kind":"DTab","metadata":{"name":"default","namespace":"tulle"},"dentries":[{"prefix":"/svc","dst":"/host"}]}`

func TestUninstall(t *testing.T) {
	api := apitest.Start(t)
	certManager(t, api)
	install(t, api, nil)
	// Pods and dtabs come with the webhooks away, which nobody answers here.
	kubectl(t, api, "", "delete", "mutatingwebhookconfiguration/tulle-injector")
	kubectl(t, api, pods, "apply", "-f", "-")
	kubectl(t, api, aDtab, "apply", "-f", "-")
	install(t, api, nil)
	for _, name := range []string{"tulle-webhook-ca", "tulle-ca"} {
		kubectl(t, api, "", "create", "secret", "generic", "-n", "tulle", name)
	}
	kubectl(t, api, "", "create", "configmap", "-n", "tulle", "mine")

	uninstall := func(stdin string, args ...string) (string, string, error) {
		return tulle(t, api, installing.UninstallCommand(), stdin, args...)
	}
	out, talk, err := uninstall("n\n")
	fails(t, err, "nothing was deleted", "--yes")
	if out != "" || !strings.Contains(talk, "2 pods are in the mesh. Those in host mode, 1, cannot") || !strings.HasSuffix(talk, "Go on? [y/N] ") {
		t.Errorf("it asks\n%s%s", out, talk)
	}
	if _, talk, err = uninstall("n\n", "--all"); err == nil || !strings.Contains(talk, "All dtabs go, too.\nSo does the namespace tulle, with all that is in it, whoever put it there.\n") {
		t.Errorf("with --all it asks %q, %v", talk, err)
	}
	out, _, err = uninstall("", "--dry-run")
	if err != nil || !strings.HasPrefix(out, "mutatingwebhookconfiguration.admissionregistration.k8s.io/tulle-dtabs deleted (dry run)\n") {
		t.Errorf("%v\n%s", err, out)
	}
	kubectl(t, api, "", "get", "mutatingwebhookconfiguration/tulle-injector")

	out, talk, err = uninstall("y\n")
	if err != nil {
		t.Fatal(worded(err))
	}
	lines := strings.Split(out, "\n")
	if !strings.HasPrefix(lines[0], "mutatingwebhookconfiguration.") || !strings.HasPrefix(lines[1], "mutatingwebhookconfiguration.") {
		t.Errorf("webhooks are not the first to go:\n%s", out)
	}
	for _, want := range []string{
		"secret/tulle-webhook-ca deleted\n", "namespace/tulle-probe deleted\n", "namespace/tulle kept\n", "customresourcedefinition.apiextensions.k8s.io/dtabs.l5d.io kept\n",
		"\n2 pods are still injected. To make them anew:\n\n  kubectl rollout restart -n shop deployment/web  # 1 host\n  kubectl get pod -n shop batch -o yaml | tulle uninject -f - | kubectl replace --force -f -  # 1 sidecar\n",
		"\n  kubectl label namespace shop tulle.dev/inject- tulle.dev/mode-\n",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("it does not say %q:\n%s", want, out)
		}
	}
	if !strings.Contains(talk, "1 dtab is kept in the namespace tulle") {
		t.Errorf("it says %q", talk)
	}
	left := kubectl(t, api, "", "get", "-n", "tulle", "dtab,secret,configmap,deployment,service,serviceaccount,role,issuer", "-o", "name")
	if left != "dtab.l5d.io/default\nsecret/tulle-ca\nconfigmap/mine\n" {
		t.Errorf("left are\n%s", left)
	}

	// A pod that nobody makes again can be made again as the list says.
	kubectl(t, api, kubectl(t, api, "", "get", "pod", "-n", "shop", "batch", "-o", "yaml"), "replace", "--force", "-f", "-")

	// What was kept goes with --all, and then there is nothing.
	if out, _, err = uninstall("", "--all", "--yes"); err != nil || !strings.Contains(out, "secret/tulle-ca deleted\n") || !strings.Contains(out, "customresourcedefinition.apiextensions.k8s.io/dtabs.l5d.io deleted\n") || !strings.Contains(out, "namespace/tulle deleted\n") {
		t.Errorf("%v\n%s", err, out)
	}
	if out := kubectl(t, api, "", "get", "clusterrole,clusterrolebinding,mutatingwebhookconfiguration", "-l", "app.kubernetes.io/name=tulle", "-o", "name"); out != "" {
		t.Errorf("left are\n%s", out)
	}
}
