package dtab

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
)

// apiServer lists pods and forwards ports of them to addresses, over SPDY alone; "" is forbidden.
func apiServer(t *testing.T, pods []corev1.Pod, to func(pod string) string) (kubeconfig string, asked *sync.Map) {
	asked = &sync.Map{}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/v1/namespaces/{ns}/pods", func(w http.ResponseWriter, r *http.Request) {
		list := corev1.PodList{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "PodList"}}
		if r.PathValue("ns") == "tulle" && r.URL.Query().Get("labelSelector") == "app.kubernetes.io/name=tulle,app.kubernetes.io/component=controller" {
			list.Items = pods
		}
		w.Header().Set("Content-Type", "application/json")
		if r.PathValue("ns") == "secret" {
			w.WriteHeader(http.StatusForbidden)
			json.NewEncoder(w).Encode(metav1.Status{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: "Failure",
				Reason: metav1.StatusReasonForbidden, Code: http.StatusForbidden, Message: "pods is forbidden: not for you"})
			return
		}
		json.NewEncoder(w).Encode(list)
	})
	mux.HandleFunc("POST /api/v1/namespaces/{ns}/pods/{pod}/portforward", func(w http.ResponseWriter, r *http.Request) {
		address := to(r.PathValue("pod"))
		if address == "" {
			http.Error(w, "no pods/portforward for you", http.StatusForbidden)
			return
		}
		if _, err := httpstream.Handshake(r, w, []string{"portforward.k8s.io"}); err != nil {
			return
		}
		streams := make(chan httpstream.Stream, 8)
		conn := spdy.NewResponseUpgrader().UpgradeResponse(w, r, func(s httpstream.Stream, _ <-chan struct{}) error {
			streams <- s
			return nil
		})
		if conn == nil {
			return
		}
		defer conn.Close()
		var failure httpstream.Stream // the one before that of the data
		for {
			select {
			case s := <-streams:
				asked.Store(r.PathValue("pod")+":"+s.Headers().Get("port"), true)
				if s.Headers().Get("streamType") == "error" {
					failure = s
					continue
				}
				go func(failure io.WriteCloser) {
					defer failure.Close()
					defer s.Close()
					out, err := net.Dial("tcp", address)
					if err != nil {
						io.WriteString(failure, "nobody listens")
						return
					}
					defer out.Close()
					go io.Copy(out, s)
					io.Copy(s, out)
				}(failure)
			case <-conn.CloseChan():
				return
			}
		}
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return kubeconfigOf(t, server.URL), asked
}

// kubeconfigOf names an API server.
func kubeconfigOf(t *testing.T, server string) (kubeconfig string) {
	kubeconfig = filepath.Join(t.TempDir(), "config")
	text := `{"apiVersion":"v1","kind":"Config","current-context":"c","clusters":[{"name":"c","cluster":{"server":"` + server + `"}}],
"users":[{"name":"u","user":{}}],"contexts":[{"name":"c","context":{"cluster":"c","user":"u"}}]}`
	if err := os.WriteFile(kubeconfig, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return kubeconfig
}

// controller is a pod of the controller.
func controller(name string, ready corev1.ConditionStatus, port int32) corev1.Pod {
	p := corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "tulle"}}
	p.Status.Phase = corev1.PodRunning
	p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: ready}}
	p.Spec.Containers = []corev1.Container{{Ports: []corev1.ContainerPort{{Name: "webhook", ContainerPort: 8443}, {Name: "namer", ContainerPort: port}}}}
	return p
}

// Without a URL the namer is reached through the cluster.
func TestThroughTheCluster(t *testing.T) {
	m := newMesh(t)
	leaving := controller("leaving", corev1.ConditionTrue, 4180)
	leaving.DeletionTimestamp = new(metav1.Now())
	config, asked := apiServer(t, []corev1.Pod{controller("new", corev1.ConditionFalse, 4180), leaving, controller("good", corev1.ConditionTrue, 4999)},
		func(string) string { return strings.TrimPrefix(m.url, "http://") })
	for range 2 {
		if got := m.run("", "ls", "-o", "name", "--namer", "", "--kubeconfig", config); got != (result{0, "shop\n", ""}) {
			t.Errorf("%+v", got)
		}
	}
	if _, ok := asked.Load("good:4999"); !ok {
		t.Error("not the pod that is ready, or not its port")
	}
	nobody := kubeconfigOf(t, "http://127.0.0.1:1")
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"-n", "other"}, "error: no controller is ready in the namespace other: it has no pods there\nhint: kubectl get pods -n other shows why; -n names the namespace that Tulle runs in\n"},
		{[]string{"--kubeconfig", nobody}, "error: look for the controller in the namespace tulle: ask the API server at http://127.0.0.1:1: dial tcp 127.0.0.1:1: "},
		{[]string{"-n", "secret"}, "error: look for the controller in the namespace secret: pods is forbidden: not for you\nhint: this needs the right to list pods in the namespace secret; or use --namer\n"},
		{[]string{"--context", "what"}, "error: there is no way to a namer: context \"what\" does not exist\n"},
	} {
		got := m.run("", append([]string{"ls", "--namer", "", "--kubeconfig", config}, c.args...)...)
		if got.code != 1 || !strings.HasPrefix(got.stderr, c.want) {
			t.Errorf("%q: %+v", c.args, got)
		}
	}
	config, _ = apiServer(t, []corev1.Pod{controller("good", corev1.ConditionTrue, 4180)}, func(string) string { return "127.0.0.1:1" })
	if got := m.run("", "ls", "--namer", "", "--kubeconfig", config); got.code != 1 || got.stderr != "error: ask the namer in pod good: nobody listens\nhint: kubectl logs -n tulle good shows what it is at\n" {
		t.Errorf("%+v", got)
	}
	config, _ = apiServer(t, []corev1.Pod{controller("good", corev1.ConditionTrue, 4180)}, func(string) string { return "" })
	if got := m.run("", "ls", "--namer", "", "--kubeconfig", config); got.code != 1 || !strings.HasPrefix(got.stderr, "error: forward a port to pod good: ") {
		t.Errorf("%+v", got)
	}
	// One that cannot be reached is no reason not to ask the next one.
	config, _ = apiServer(t, []corev1.Pod{controller("bad", corev1.ConditionTrue, 4180), controller("good", corev1.ConditionTrue, 4180)}, func(pod string) string {
		return map[string]string{"good": strings.TrimPrefix(m.url, "http://")}[pod]
	})
	if got := m.run("", "ls", "-o", "name", "--namer", "", "--kubeconfig", config); got != (result{0, "shop\n", ""}) {
		t.Errorf("%+v", got)
	}
}
