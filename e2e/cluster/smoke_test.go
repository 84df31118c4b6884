//go:build e2e

package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tulle-mesh/tulle/e2e/cluster/suite"
)

const (
	smokeNamespace = "cluster-smoke"
	probeImage     = "tulle.dev/probe:dev"
)

// ended is the context of everything that TestCluster starts; TestMain sets it.
var ended context.Context

// started is set once there is something that TestMain has to take down.
var started atomic.Bool

func TestMain(m *testing.M) {
	os.Exit(suite.Run(m, suite.Config{
		Up: func(ctx context.Context) error { ended = ctx; return nil },
		Down: func(ctx context.Context) error {
			if !started.Load() {
				return nil
			}
			return Down(ctx, Options{})
		},
	}))
}

// TestCluster checks what other tests take for granted of the cluster: what runs on it, and that nothing is
// left of it. It replaces a cluster that is up, and takes its own down.
func TestCluster(t *testing.T) {
	if suite.Keep() {
		t.Skip("KEEP is set, and this test takes the cluster down")
	}
	started.Store(true)
	c, err := Up(ended, Options{Log: t.Output(), Install: true, Fresh: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { checkDown(t, c) })
	s := &smoke{Cluster: c}
	s.deploy(t)
	t.Run("network", s.network)
	t.Run("image is loaded once", s.imageOnce)
	t.Run("admission", s.admission)
	t.Run("exec", s.exec)
	t.Run("cert-manager", s.certManager)
	t.Run("power cut", s.powerCut)
	t.Run("logs", s.logs)
}

type smoke struct{ *Cluster }

// deploy starts a probe on each node, with a Service over both and one for each.
func (s *smoke) deploy(t *testing.T) {
	t.Helper()
	binary := buildProbe(t)
	if err := s.LoadImage(t.Context(), probeImage, binary); err != nil {
		t.Fatal(err)
	}
	manifests := `{apiVersion: v1, kind: Namespace, metadata: {name: ` + smokeNamespace + `}}
---
{apiVersion: v1, kind: Service, metadata: {name: probe, namespace: ` + smokeNamespace + `}, spec: {selector: {app: probe}, ports: [{port: 80, targetPort: 8080}]}}
`
	for _, n := range s.Nodes() {
		manifests += fmt.Sprintf(`---
{apiVersion: v1, kind: Service, metadata: {name: probe-%[1]s, namespace: %[2]s}, spec: {selector: {app: probe, node: %[1]s}, ports: [{port: 80, targetPort: 8080}]}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: probe-%[1]s, namespace: %[2]s}
spec:
  selector: {matchLabels: {app: probe, node: %[1]s}}
  template:
    metadata: {labels: {app: probe, node: %[1]s}}
    spec:
      nodeSelector: {kubernetes.io/hostname: %[1]s}
      containers:
      - name: probe
        image: %[3]s
        imagePullPolicy: IfNotPresent
        ports: [{containerPort: 8080, hostPort: 18080}]
        readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}
        securityContext: {runAsNonRoot: true, allowPrivilegeEscalation: false, seccompProfile: {type: RuntimeDefault}}
`, n.Name, smokeNamespace, probeImage)
	}
	manifests += `---
apiVersion: v1
kind: Pod
metadata: {name: neighbour, namespace: ` + smokeNamespace + `}
spec:
  nodeSelector: {kubernetes.io/hostname: ` + s.Nodes()[0].Name + `}
  containers: [{name: probe, image: ` + probeImage + `, imagePullPolicy: IfNotPresent}]
`
	if err := s.Apply(t.Context(), manifests); err != nil {
		t.Fatal(err)
	}
	s.awaitProbes(t)
	if _, err := s.Kubectl(t.Context(), nil, "wait", "-n", smokeNamespace, "pod/neighbour", "--for=condition=Ready", "--timeout=60s"); err != nil {
		t.Fatal(err)
	}
}

func (s *smoke) awaitProbes(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for _, n := range s.Nodes() {
		err := s.await(ctx, "the probe on "+n.Name, func(ctx context.Context) error {
			return s.checkDeployment(ctx, smokeNamespace, "probe-"+n.Name)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// probe returns the probe's pod on a node.
func (s *smoke) probe(t *testing.T, n Node) corev1.Pod {
	t.Helper()
	pods, err := s.client.CoreV1().Pods(smokeNamespace).List(t.Context(), metav1.ListOptions{LabelSelector: "node=" + n.Name})
	if err != nil {
		t.Fatal(err)
	}
	if len(pods.Items) != 1 {
		t.Fatalf("node %s has %d probes, want 1", n.Name, len(pods.Items))
	}
	return pods.Items[0]
}

func (s *smoke) network(t *testing.T) {
	services, err := s.client.CoreV1().Services(smokeNamespace).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, from := range s.Nodes() {
		pod := s.probe(t, from)
		if !from.Pods.Contains(netip.MustParseAddr(pod.Status.PodIP)) {
			t.Errorf("pod on %s has address %s, want one of %s", from.Name, pod.Status.PodIP, from.Pods)
		}
		if got, want := pod.Status.HostIP, s.NodeIPs()[from.Name].String(); got != want {
			t.Errorf("pod on %s is on host %s, want %s", from.Name, got, want)
		}
		// The pair of nodes is tried both ways, and each node with itself, which is hairpin traffic.
		for _, to := range s.Nodes() {
			target := s.probe(t, to)
			for _, host := range []string{
				target.Status.PodIP + ":8080",
				to.IP.String() + ":18080",
				"probe-" + to.Name,
				"probe-" + to.Name + "." + smokeNamespace + ".svc." + clusterDomain,
			} {
				expect(t, fetchURL(pod, "http://"+host+"/"), target.Name)
			}
		}
	}
	// Who calls a port of a node is seen as who it is, from the same node and from another.
	neighbour, err := s.client.CoreV1().Pods(smokeNamespace).Get(t.Context(), "neighbour", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, to := range s.Nodes() {
		expect(t, fetchURL(*neighbour, "http://"+to.IP.String()+":18080/from"), neighbour.Status.PodIP)
	}
	for _, service := range services.Items {
		body := get(t, "http://"+service.Spec.ClusterIP+"/")
		if !strings.HasPrefix(body, "probe-n") {
			t.Errorf("the host got %q from service %s, want a probe's name", body, service.Name)
		}
	}
}

// fetchURL is the URL by which the probe in a pod fetches another.
func fetchURL(pod corev1.Pod, address string) string {
	return "http://" + pod.Status.PodIP + ":8080/fetch?" + url.Values{"url": {address}}.Encode()
}

func (s *smoke) imageOnce(t *testing.T) {
	begun := time.Now()
	if err := s.LoadImage(t.Context(), probeImage, buildProbe(t)); err != nil {
		t.Fatal(err)
	}
	t.Logf("building and loading the same image again took %s", time.Since(begun))
	if err := s.LoadImage(t.Context(), "no tag"); err == nil || !strings.Contains(err.Error(), "tulle.dev/") {
		t.Errorf("got error %v, want one that shows what a name looks like", err)
	}
}

func (s *smoke) admission(t *testing.T) {
	const namespace = smokeNamespace + "-baseline"
	err := s.Apply(t.Context(), `{apiVersion: v1, kind: Namespace, metadata: {name: `+namespace+`, labels: {pod-security.kubernetes.io/enforce: baseline}}}`)
	if err != nil {
		t.Fatal(err)
	}
	const privileged = `{apiVersion: v1, kind: Pod, metadata: {name: privileged, namespace: ` + namespace + `},
spec: {containers: [{name: a, image: ` + probeImage + `, securityContext: {privileged: true}}]}}`
	if err := s.Apply(t.Context(), privileged); err == nil || !strings.Contains(err.Error(), "PodSecurity") {
		t.Errorf("a privileged pod in a baseline namespace: got error %v, want PodSecurity's", err)
	}
	// A node's kubelet may label itself only as it is allowed to.
	label := s.KubectlCommand(t.Context(), "label", "node", "n2", "x=y")
	label.Env = append(os.Environ(), "KUBECONFIG="+s.dir.kubeconfig("system:node:n1"))
	if out, err := label.CombinedOutput(); err == nil || !strings.Contains(string(out), "n1") {
		t.Errorf("node n1 labelled node n2: got error %v and %q, want to be refused", err, out)
	}
}

func (s *smoke) exec(t *testing.T) {
	pod := s.probe(t, s.Nodes()[0])
	// There is no shell in the image; the program itself finds its port taken, which is an answer too.
	_, err := s.Kubectl(t.Context(), nil, "exec", "-n", smokeNamespace, pod.Name, "--", "/probe")
	if err == nil || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("exec of a second probe: got error %v, want one about its port", err)
	}
}

func (s *smoke) certManager(t *testing.T) {
	begun := time.Now()
	err := s.Apply(t.Context(), `
{apiVersion: cert-manager.io/v1, kind: Issuer, metadata: {name: self, namespace: `+smokeNamespace+`}, spec: {selfSigned: {}}}
---
apiVersion: cert-manager.io/v1
kind: Certificate
metadata: {name: ca, namespace: `+smokeNamespace+`}
spec: {isCA: true, commonName: smoke, secretName: ca, privateKey: {algorithm: ECDSA}, issuerRef: {name: self}}
---
{apiVersion: cert-manager.io/v1, kind: Issuer, metadata: {name: ca, namespace: `+smokeNamespace+`}, spec: {ca: {secretName: ca}}}
---
apiVersion: cert-manager.io/v1
kind: Certificate
metadata: {name: leaf, namespace: `+smokeNamespace+`}
spec: {dnsNames: [leaf.test], secretName: leaf, privateKey: {algorithm: ECDSA}, issuerRef: {name: ca}}
`)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Kubectl(t.Context(), nil, "wait", "-n", smokeNamespace, "certificate/leaf", "--for=condition=Ready", "--timeout=60s"); err != nil {
		t.Fatal(err)
	}
	t.Logf("from an issuer to a certificate signed by its CA: %s", time.Since(begun))
	_, err = s.Kubectl(t.Context(), nil, "annotate", "-n", smokeNamespace, "certificaterequest", "leaf-1", "x=y")
	if err != nil {
		t.Error(err)
	}
	user, err := s.Kubectl(t.Context(), nil, "get", "-n", smokeNamespace, "certificaterequest", "leaf-1", "-o", "jsonpath={.spec.username}")
	if err != nil || user != "system:serviceaccount:cert-manager:cert-manager" {
		t.Errorf("the request's user is %q (%v), want the one that cert-manager's webhook stamps", user, err)
	}
}

func (s *smoke) powerCut(t *testing.T) {
	n := s.Nodes()[1]
	before := s.probe(t, n)
	if err := s.KillNode(t.Context(), n.Name); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	if err := s.StartNode(t.Context(), n.Name); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	err := s.await(ctx, "the pod to be restarted", func(context.Context) error {
		after := s.probe(t, n)
		if len(after.Status.ContainerStatuses) != 1 || after.Status.ContainerStatuses[0].RestartCount == 0 || !after.Status.ContainerStatuses[0].Ready {
			return fmt.Errorf("pod %s has not been restarted", after.Name)
		}
		if after.Name != before.Name {
			return fmt.Errorf("pod %s was replaced by %s", before.Name, after.Name)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("from a power cut to the pod ready again: %s", time.Since(begun))
	if err := s.AwaitNodes(ctx); err != nil {
		t.Fatal(err)
	}
	expect(t, "http://"+s.probe(t, n).Status.PodIP+":8080/", before.Name)
}

func (s *smoke) logs(t *testing.T) {
	dir := t.TempDir()
	if err := s.CollectLogs(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{
		"components/cp/kube-apiserver.log": "Serving securely",
		"components/n1/kubelet.log":        "kubelet",
		"pods/" + smokeNamespace + "_" + s.probe(t, s.Nodes()[0]).Name + "_probe.log": "listens on 8080",
		"pods.txt": "coredns",
	} {
		data, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(file)))
		if err != nil || !bytes.Contains(data, []byte(want)) {
			t.Errorf("%s does not contain %q (%v)", file, want, err)
		}
	}
}

// checkDown takes the cluster down, twice, and looks for what it may have left.
func checkDown(t *testing.T, c *Cluster) {
	ctx := context.Background()
	if t.Failed() {
		logs := filepath.Join("..", "..", "build", "e2e-logs")
		t.Logf("the logs of all components and pods are in build/e2e-logs (%v)",
			errors.Join(os.RemoveAll(logs), c.CollectLogs(ctx, logs)))
	}
	for range 2 {
		if err := Down(ctx, Options{}); err != nil {
			t.Error(err)
		}
	}
	if found, err := findMachines(c.dir); err != nil || len(found) > 0 {
		t.Errorf("machines left after Down: %v (%v)", found, err)
	}
	hierarchies, err := cgroupHierarchies(cgroupRoot)
	if err != nil {
		t.Error(err)
	}
	paths := []string{string(c.dir), "/sys/class/net/" + hostLink}
	for _, h := range hierarchies {
		paths = append(paths, filepath.Join(h, clusterName))
	}
	for _, path := range paths {
		if _, err := os.Stat(path); err == nil {
			t.Errorf("left after Down: %s", path)
		}
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil || strings.Contains(string(mounts), string(c.dir)) {
		t.Errorf("mounts left after Down (%v):\n%s", err, mounts)
	}
}

func buildProbe(t *testing.T) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "probe")
	if _, err := goOutput(t.Context(), "", "build", "-o", binary, "./cmd/probe"); err != nil {
		t.Fatal(err)
	}
	return binary
}

// expect asks until the answer is right: kube-proxy learns of an endpoint a moment after it is ready.
func expect(t *testing.T, address, want string) {
	t.Helper()
	var got string
	for range 100 {
		if got = get(t, address); got == want {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Errorf("%s answers %q, want %q", address, got, want)
}

func get(t *testing.T, address string) string {
	t.Helper()
	client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Get(address)
	if err != nil {
		return err.Error()
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return err.Error()
	}
	return string(body)
}
