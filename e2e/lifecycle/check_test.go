//go:build e2e

package lifecycle

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/tulle-mesh/tulle/cmd/tulle/check"
	"github.com/tulle-mesh/tulle/e2e/cluster"
	"github.com/tulle-mesh/tulle/e2e/cluster/apitest"
	"github.com/tulle-mesh/tulle/webhook"
	"github.com/tulle-mesh/tulle/webhook/settings"
)

// mesh is an installation that a check finds nothing wrong with: the real webhook and the real proxy of a node, at
// addresses of this machine, in place of pods.
type mesh struct {
	api     *cluster.API
	address netip.Addr
	ca      []byte // PEM
	port    int    // of the webhook
	admin   int
	out     int
	hangs   atomic.Bool // the webhook answers nothing
}

// address returns one of this machine's that endpoints of a Service may have, which loopback's may not.
func address(t *testing.T) netip.Addr {
	t.Helper()
	a, err := cluster.OwnAddress()
	if err != nil {
		t.Skip(err)
	}
	return a
}

// certificate makes one for a name, which is its own CA.
func certificate(t *testing.T, name string) (ca []byte, cert tls.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), DNSNames: []string{name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// injector serves the webhook.
func (m *mesh) injector(t *testing.T) {
	t.Helper()
	ca, cert := certificate(t, "tulle-controller.tulle.svc")
	m.ca = ca
	server, err := webhook.NewServer(webhook.ServerConfig{
		Config: func() webhook.Config { return settings.Default().Config("") },
		Namespace: func(ctx context.Context, name string) (webhook.Namespace, error) {
			n, err := m.api.Client().CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
			if err != nil {
				return webhook.Namespace{}, err
			}
			return webhook.Namespace{Name: name, Labels: n.Labels}, nil
		},
		Registerer: prometheus.NewRegistry(), Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", net.JoinHostPort(m.address.String(), "0"))
	if err != nil {
		t.Fatal(err)
	}
	m.port = listener.Addr().(*net.TCPAddr).Port
	https := &http.Server{ReadHeaderTimeout: patience, ErrorLog: log.New(io.Discard, "", 0), Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if m.hangs.Load() {
			_, _ = io.Copy(io.Discard, q.Body) // so that the end of the caller is seen
			<-q.Context().Done()
			return
		}
		server.ServeHTTP(w, q)
	})}
	done := make(chan error, 1)
	go func() {
		done <- https.Serve(tls.NewListener(listener, &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}}))
	}()
	t.Cleanup(func() {
		https.Close()
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
}

// proxy runs the proxy of the node.
func (m *mesh) proxy(t *testing.T) {
	t.Helper()
	program := filepath.Join(t.TempDir(), "tulle-proxy")
	if out, err := exec.Command("go", "build", "-o", program, "github.com/tulle-mesh/tulle/cmd/tulle-proxy").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, p := range []*int{&m.admin, &m.out} {
		l, err := net.Listen("tcp", net.JoinHostPort(m.address.String(), "0"))
		if err != nil {
			t.Fatal(err)
		}
		*p = l.Addr().(*net.TCPAddr).Port
		l.Close()
	}
	cmd := exec.Command(program, "--mode", "standalone", "--dtab", "/svc => /#/io.l5d.fs", "--fs-root", t.TempDir(),
		"--admin", fmt.Sprintf("%s:%d", m.address, m.admin), "--outgoing", fmt.Sprintf("%s:%d", m.address, m.out))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	url := fmt.Sprintf("http://%s:%d/admin/ready", m.address, m.admin)
	m.await(t, "the proxy to be ready", func() bool {
		r, err := http.Get(url)
		if err == nil {
			r.Body.Close()
		}
		return err == nil && r.StatusCode == http.StatusOK
	})
}

func (m *mesh) await(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for !holds() {
		select {
		case <-ticker.C:
		case <-deadline.C:
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

func (m *mesh) kubectl(t *testing.T, args ...string) string {
	t.Helper()
	return kubectl(t, m.api, "", args...)
}

// patch patches an object, or what is below it.
func (m *mesh) patch(t *testing.T, object, patch string, args ...string) {
	t.Helper()
	m.kubectl(t, append([]string{"patch", "-n", "tulle", object, "--type=merge", "-p", patch}, args...)...)
}

// trust gives the CA bundle to all entries.
func (m *mesh) trust(t *testing.T, bundle []byte) {
	t.Helper()
	for name, entries := range map[string]int{"tulle-injector": 4, "tulle-dtabs": 1} {
		var ops []map[string]any
		for i := range entries {
			ops = append(ops, map[string]any{"op": "add", "path": fmt.Sprintf("/webhooks/%d/clientConfig/caBundle", i), "value": base64.StdEncoding.EncodeToString(bundle)})
		}
		text, err := json.Marshal(ops)
		if err != nil {
			t.Fatal(err)
		}
		m.kubectl(t, "patch", "mutatingwebhookconfiguration", name, "--type=json", "-p", string(text))
	}
}

// leads has the Service lead to a port; 0 is to nothing.
func (m *mesh) leads(t *testing.T, port int) {
	t.Helper()
	m.kubectl(t, "delete", "endpointslice", "-n", "tulle", "--all")
	if port == 0 {
		return
	}
	kubectl(t, m.api, fmt.Sprintf(`{"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice","metadata":{"name":"one","namespace":"tulle","labels":{"kubernetes.io/service-name":"tulle-controller"}},
		"addressType":"IPv4","endpoints":[{"addresses":[%q],"conditions":{"ready":true}}],"ports":[{"name":"webhook","port":%d}]}`, m.address, port), "apply", "-f", "-")
}

// heal makes everything as it should be.
func (m *mesh) heal(t *testing.T) {
	t.Helper()
	m.hangs.Store(false)
	install(t, m.api, map[string]any{"injector": map[string]any{"timeoutSeconds": 1}}, "--server-side", "--force-conflicts", "--field-manager=kubectl")
	m.trust(t, m.ca)
	m.leads(t, m.port)
	m.patch(t, "deployment/tulle-controller", `{"status":{"observedGeneration":1000000,"replicas":2,"updatedReplicas":2,"readyReplicas":2,"availableReplicas":2}}`, "--subresource=status")
	m.patch(t, "daemonset/tulle-host", `{"status":{"observedGeneration":1000000,"desiredNumberScheduled":1,"currentNumberScheduled":1,"numberMisscheduled":0,"updatedNumberScheduled":1,"numberReady":1,"numberAvailable":1}}`, "--subresource=status")
	for _, name := range []string{"tulle-ca", "tulle-controller", "tulle-bundle"} {
		m.certificate(t, name, time.Now().Add(48*time.Hour), time.Now().Add(24*time.Hour), "True")
	}
	m.host(t, m.admin, m.out, "True")
	m.kubectl(t, "label", "namespace/shop", "--overwrite", "tulle.dev/inject=enabled", "tulle.dev/mode-", "pod-security.kubernetes.io/enforce-")
}

func (m *mesh) certificate(t *testing.T, name string, ends, renewal time.Time, ready string) {
	t.Helper()
	m.patch(t, "certificate/"+name, fmt.Sprintf(`{"status":{"notAfter":%q,"renewalTime":%q,"conditions":[{"type":"Ready","status":%q,"reason":"Because","message":"of that","lastTransitionTime":%q}]}}`,
		ends.UTC().Format(time.RFC3339), renewal.UTC().Format(time.RFC3339), ready, time.Now().UTC().Format(time.RFC3339)), "--subresource=status")
}

// host plays the pod of the node's proxy, with these ports.
func (m *mesh) host(t *testing.T, admin, out int, ready string) {
	t.Helper()
	m.kubectl(t, "delete", "pod", "-n", "tulle", "--all", "--force", "--grace-period=0")
	kubectl(t, m.api, fmt.Sprintf(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"tulle-host-x","namespace":"tulle","labels":{"app.kubernetes.io/name":"tulle","app.kubernetes.io/component":"host"}},
		"spec":{"nodeName":"n1","hostNetwork":true,"containers":[{"name":"tulle-proxy","image":"x","env":[{"name":"TULLE_ADMIN","value":"0.0.0.0:%d"},{"name":"TULLE_OUTGOING","value":"0.0.0.0:%d"}]}]}}`, admin, out), "create", "-f", "-")
	m.patch(t, "pod/tulle-host-x", fmt.Sprintf(`{"status":{"phase":"Running","podIP":%q,"podIPs":[{"ip":%[1]q}],"conditions":[{"type":"Ready","status":%q}]}}`, m.address, ready), "--subresource=status")
}

// check runs it, and returns the codes with their findings.
func (m *mesh) check(t *testing.T, args ...string) (codes []string, text string, err error) {
	t.Helper()
	out, talk, err := tulle(t, m.api, check.Command(), "", append(args, "-o", "json")...)
	var result struct{ Sections []check.Result }
	if e := json.Unmarshal([]byte(out), &result); e != nil {
		t.Fatalf("%v: %s%s%v", e, out, talk, err)
	}
	var all strings.Builder
	for _, s := range result.Sections {
		for _, f := range s.Findings {
			codes = append(codes, string(f.Code))
			if f.Fix == "" {
				t.Errorf("%s has no fix", f.Code)
			}
		}
		for _, u := range s.Unchecked {
			fmt.Fprintln(&all, "?", u)
		}
	}
	slices.Sort(codes)
	table, _, _ := tulle(t, m.api, check.Command(), "", args...)
	return slices.Compact(codes), table + all.String(), err
}

const web = `{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"web","namespace":"shop","annotations":{%s}},"spec":{"selector":{"matchLabels":{"app":"web"}},
	"template":{"metadata":{"labels":{"app":"web"},"annotations":{%s}},"spec":{"containers":[{"name":"app","image":"app"}]}}}}`

// Each fault of an installation has its code, and none where there is no fault.
func TestCheck(t *testing.T) {
	api := apitest.Start(t)
	m := &mesh{api: api, address: address(t)}
	m.injector(t)
	m.proxy(t)

	codes, text, err := m.check(t, "--pre")
	if !slices.Equal(codes, []string{"T902"}) || !strings.Contains(text, "ok    you may install Tulle") {
		t.Fatalf("--pre, without cert-manager: %v %v\n%s", codes, err, text)
	}
	certManager(t, api)
	if codes, text, err = m.check(t, "--pre"); err != nil || len(codes) > 0 {
		t.Fatalf("--pre: %v %v\n%s", codes, err, text)
	}
	if codes, text, _ = m.check(t); !slices.Equal(codes, []string{"T921"}) || !strings.Contains(text, "fix: tulle install | kubectl apply -f -") {
		t.Errorf("without Tulle: %v\n%s", codes, text)
	}
	install(t, api, nil, "--server-side")
	kubectl(t, api, `{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"shop"}}`, "apply", "-f", "-")
	kubectl(t, api, `{"apiVersion":"v1","kind":"Node","metadata":{"name":"n1","labels":{"kubernetes.io/os":"linux"}}}`, "apply", "-f", "-")
	m.kubectl(t, "create", "secret", "generic", "-n", "tulle", "tulle-controller-tls", "--from-literal=ca.crt="+string(m.ca))
	m.kubectl(t, "create", "clusterrole", "look", "--verb=get,list", "--resource=configmaps,pods,services,namespaces,nodes,deployments,daemonsets,statefulsets,cronjobs,jobs,endpointslices,certificates.cert-manager.io")
	m.kubectl(t, "create", "clusterrolebinding", "look", "--clusterrole=look", "--user=bob")
	unused, _ := certificate(t, "somebody.else")

	past := time.Now().Add(-2 * time.Hour)
	for _, c := range []struct {
		name  string
		fault func(t *testing.T)
		want  []string
		says  string
	}{
		{"nothing", func(*testing.T) {}, nil, "a pod is injected in 2 namespaces, within "},
		{"pod security", func(t *testing.T) {
			m.kubectl(t, "label", "namespace/tulle", "--overwrite", "pod-security.kubernetes.io/enforce=restricted")
		}, []string{"T904"}, "enforce=privileged --overwrite"},
		{"no webhook", func(t *testing.T) { m.kubectl(t, "delete", "mutatingwebhookconfiguration/tulle-injector") }, []string{"T911", "T937"}, "tulle-injector: it is not there"},
		{"an entry gone", func(t *testing.T) {
			m.kubectl(t, "patch", "mutatingwebhookconfiguration/tulle-injector", "--type=json", "-p", `[{"op":"remove","path":"/webhooks/2"}]`)
		}, []string{"T911"}, "debug.inject.tulle.dev is gone"},
		{"no CA bundle", func(t *testing.T) { m.trust(t, nil) }, []string{"T912", "T934"}, "the CA bundle is empty"},
		{"another CA", func(t *testing.T) { m.trust(t, unused) }, []string{"T934"}, "x509"},
		{"no endpoint", func(t *testing.T) { m.leads(t, 0) }, []string{"T913", "T933"}, "leads to no pod that is ready"},
		{"refused", func(t *testing.T) { m.leads(t, 9) }, []string{"T932"}, "connection refused"},
		{"timeout", func(*testing.T) { m.hangs.Store(true) }, []string{"T931"}, "a firewall"},
		{"best effort, refused", func(t *testing.T) {
			m.leads(t, 9)
			m.kubectl(t, "label", "namespace/shop", "namespace/tulle-probe", "--overwrite", "tulle.dev/inject=best-effort")
		}, []string{"T937"}, "go on without its answer"},
		{"no controller", func(t *testing.T) { m.kubectl(t, "delete", "-n", "tulle", "deployment/tulle-controller") }, []string{"T922"}, "it is not there"},
		{"scaled to zero", func(t *testing.T) {
			m.kubectl(t, "scale", "-n", "tulle", "deployment/tulle-controller", "--replicas=0")
		}, []string{"T922"}, "--replicas=2"},
		{"not ready", func(t *testing.T) {
			m.patch(t, "deployment/tulle-controller", `{"status":{"readyReplicas":1,"availableReplicas":1}}`, "--subresource=status")
		}, []string{"T922"}, "of 2 replicas, 2 run what it says and 1 are ready"},
		{"version", func(t *testing.T) {
			m.patch(t, "configmap/tulle-controller", `{"metadata":{"labels":{"app.kubernetes.io/version":"9.1.0"}}}`)
		}, []string{"T923"}, "version 9.1.0 is installed"},
		{"host proxy not ready", func(t *testing.T) { m.host(t, m.admin, m.out, "False") }, []string{"T924"}, "not ready on 1 node: n1"},
		{"no host proxies", func(t *testing.T) {
			m.kubectl(t, "delete", "-n", "tulle", "daemonset/tulle-host", "pod/tulle-host-x", "--force", "--grace-period=0")
			kubectl(t, api, `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"escaped","namespace":"shop","labels":{"tulle.dev/inject":"false","tulle.dev/mode":"host"}},"spec":{"nodeName":"n1","containers":[{"name":"a","image":"a"}]}}`, "create", "-f", "-")
		}, []string{"T925"}, "1 pod in host mode"},
		{"admin port", func(t *testing.T) { m.host(t, 9, m.out, "True") }, []string{"T951"}, "on node n1, port 9: nothing listens there"},
		{"outgoing port", func(t *testing.T) { m.host(t, m.admin, 9, "True") }, []string{"T952"}, "on node n1, port 9: nothing listens there"},
		{"another server", func(t *testing.T) { m.host(t, m.admin, m.admin, "True") }, []string{"T952"}, "no proxy of Tulle"},
		{"denied", func(t *testing.T) { m.kubectl(t, "label", "namespace/shop", "tulle.dev/mode=hots") }, []string{"T936", "T943"}, "tulle.dev/mode=host --overwrite"},
		{"typo", func(t *testing.T) { m.kubectl(t, "label", "namespace/shop", "--overwrite", "tulle.dev/inject=true") }, []string{"T943"}, "kubectl label namespace shop tulle.dev/inject=enabled --overwrite"},
		{"misplaced", func(t *testing.T) {
			kubectl(t, api, fmt.Sprintf(web, `"tulle.dev/mode":"sidecar"`, ""), "apply", "-f", "-")
		}, []string{"T941"}, "kubectl patch -n shop deployment/web --type=merge"},
		{"would be refused", func(t *testing.T) {
			kubectl(t, api, fmt.Sprintf(web, "", `"tulle.dev/outgoing-port":"80"`), "apply", "-f", "-")
		}, []string{"T942"}, "kubectl edit -n shop deployment/web"},
		{"quota", func(t *testing.T) {
			m.kubectl(t, "label", "namespace/shop", "--overwrite", "tulle.dev/inject=enabled")
			kubectl(t, api, `{"apiVersion":"v1","kind":"ResourceQuota","metadata":{"name":"none","namespace":"shop"},"spec":{"hard":{"pods":"0"}}}`, "apply", "-f", "-")
			m.kubectl(t, "patch", "-n", "shop", "resourcequota/none", "--subresource=status", "--type=merge", "-p", `{"status":{"hard":{"pods":"0"},"used":{"pods":"0"}}}`)
			t.Cleanup(func() {
				_, _ = api.Kubectl(context.WithoutCancel(t.Context()), nil, "delete", "-n", "shop", "resourcequota/none")
			})
		}, []string{"T938"}, "exceeded quota"},
		{"certificate not ready", func(t *testing.T) {
			m.certificate(t, "tulle-controller", time.Now().Add(time.Hour), time.Now().Add(time.Hour), "False")
		}, []string{"T961"}, "Because: of that"},
		{"certificate runs out", func(t *testing.T) { m.certificate(t, "tulle-ca", time.Now().Add(time.Hour), past, "True") }, []string{"T962"}, "it was to be renewed at"},
		{"break-glass by hand", func(t *testing.T) {
			m.kubectl(t, "patch", "mutatingwebhookconfiguration/tulle-injector", "--type=json", "-p", `[{"op":"replace","path":"/webhooks/0/failurePolicy","value":"Ignore"}]`)
		}, []string{"T914"}, "is Ignore, set by hand"},
		{"escaped", func(t *testing.T) {
			m.kubectl(t, "label", "namespace/shop", "--overwrite", "tulle.dev/inject-")
			kubectl(t, api, `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"escaped","namespace":"shop"},"spec":{"nodeName":"n1","containers":[{"name":"a","image":"a"}]}}`, "create", "-f", "-")
			m.kubectl(t, "patch", "-n", "shop", "pod/escaped", "--type=merge", "--subresource=status", "-p", `{"status":{"phase":"Running"}}`)
			m.kubectl(t, "label", "namespace/shop", "tulle.dev/inject=enabled")
		}, []string{"T971"}, "pod/escaped in namespace shop: 1 pod is outside of the mesh"},
		{"stale", func(t *testing.T) {
			kubectl(t, api, `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"old","namespace":"shop"},"spec":{"nodeName":"n1","containers":[{"name":"a","image":"a"}]}}`, "create", "-f", "-")
			m.kubectl(t, "patch", "-n", "shop", "pod/old", "--type=merge", "--subresource=status", "-p", `{"status":{"phase":"Running"}}`)
			install(t, api, map[string]any{"injector": map[string]any{"hostAddress": "nodeName"}}, "--server-side", "--force-conflicts", "--field-manager=kubectl")
		}, []string{"T972"}, "pod/old in namespace shop: 1 pod is stale"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := api.Kubectl(t.Context(), nil, "delete", "-n", "shop", "deployment,pod", "--all", "--force", "--grace-period=0"); err != nil {
				t.Fatal(err)
			}
			m.heal(t)
			c.fault(t)
			// API servers take a moment to see a change of their webhooks.
			var codes, before []string
			var text string
			m.await(t, fmt.Sprintf("the codes %v", c.want), func() bool {
				codes, text, err = m.check(t)
				if slices.Equal(codes, c.want) {
					return true
				}
				if !slices.Equal(codes, before) {
					t.Logf("%v so far", codes)
				}
				before = codes
				return false
			})
			if !strings.Contains(text, c.says) {
				t.Errorf("it does not say %q:\n%s", c.says, text)
			}
			var f interface{ ExitCode() int }
			if want := len(c.want) > 0; want != (errors.As(err, &f) && f.ExitCode() == 2) || !want && err != nil {
				t.Errorf("the error is %s", worded(err))
			}
			if os.Getenv("SHOW") != "" {
				t.Log("\n" + text)
			}
		})
	}

	// What one may not look at is said, and is no good end.
	m.heal(t)
	config, err := clientcmd.LoadFromFile(api.Kubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	for _, user := range config.AuthInfos {
		user.Impersonate = "bob"
	}
	bob := filepath.Join(t.TempDir(), "bob")
	if err := clientcmd.WriteToFile(*config, bob); err != nil {
		t.Fatal(err)
	}
	codes, text, err = m.check(t, "--kubeconfig", bob)
	var f interface{ ExitCode() int }
	if len(codes) > 0 || !errors.As(err, &f) || f.ExitCode() != 1 || !strings.Contains(err.Error(), "could not be checked") {
		t.Errorf("bob: %v, %s\n%s", codes, worded(err), text)
	}
	for _, want := range []string{"  ?     mutatingwebhookconfiguration/tulle-injector: you may not: ", "  ?     a pod of namespace shop: ", "  ?     the admin port of the proxy on n1: you may not get pods/proxy", "  ?     pods that escaped or are stale"} {
		if !strings.Contains(text, want) {
			t.Errorf("bob is not told %q:\n%s", want, text)
		}
	}
	if codes, text, _ = m.check(t, "--pre", "--kubeconfig", bob); !slices.Equal(codes, []string{"T903"}) {
		t.Errorf("bob, --pre: %v\n%s", codes, text)
	}
}
