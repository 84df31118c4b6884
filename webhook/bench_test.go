package webhook

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"context"

	"github.com/prometheus/client_golang/prometheus"
)

// fivePod is a pod of five containers as the API server sends it, managed fields included: what the numbers of the
// injector are of.
func fivePod() []byte {
	var containers, managed []string
	for i := range 5 {
		var env []string
		for j := range 8 {
			env = append(env, fmt.Sprintf(`{"name":"VAR_%d","value":"value-%d"}`, j, j))
		}
		env = append(env, `{"name":"POD_IP","valueFrom":{"fieldRef":{"apiVersion":"v1","fieldPath":"status.podIP"}}}`)
		containers = append(containers, fmt.Sprintf(`{"name":"app-%d","image":"registry.example/shop/app:%d","env":[%s],
			"ports":[{"name":"http","containerPort":%d,"protocol":"TCP"}],
			"readinessProbe":{"httpGet":{"path":"/ready","port":"http","scheme":"HTTP"},"timeoutSeconds":1,"periodSeconds":10,"successThreshold":1,"failureThreshold":3},
			"resources":{"limits":{"memory":"128Mi"},"requests":{"cpu":"10m","memory":"64Mi"}},
			"volumeMounts":[{"name":"kube-api-access","readOnly":true,"mountPath":"/var/run/secrets/kubernetes.io/serviceaccount"}],
			"terminationMessagePath":"/dev/termination-log","terminationMessagePolicy":"File","imagePullPolicy":"IfNotPresent"}`, i, i, strings.Join(env, ","), 8080+i))
		managed = append(managed, fmt.Sprintf(`"k:{\"name\":\"app-%d\"}":{".":{},"f:env":{".":{},"k:{\"name\":\"VAR_0\"}":{".":{},"f:name":{},"f:value":{}}},"f:image":{},"f:imagePullPolicy":{},"f:name":{},"f:resources":{}}`, i))
	}
	return []byte(fmt.Sprintf(`{"kind":"Pod","apiVersion":"v1","metadata":{"generateName":"web-5d8c6b9f7-","labels":{"app":"web","pod-template-hash":"5d8c6b9f7"},
		"annotations":{"checksum/config":"3f786850e387550fdab836ed7e6dc881de23001b"},
		"ownerReferences":[{"apiVersion":"apps/v1","kind":"ReplicaSet","name":"web-5d8c6b9f7","uid":"5f1d7a2c-0000-4000-8000-000000000000","controller":true}],
		"managedFields":[{"manager":"kube-controller-manager","operation":"Update","apiVersion":"v1","fieldsType":"FieldsV1","fieldsV1":{"f:spec":{"f:containers":{%s}}}}]},
		"spec":{"containers":[%s],"volumes":[{"name":"kube-api-access","projected":{"sources":[{"serviceAccountToken":{"expirationSeconds":3607,"path":"token"}}],"defaultMode":420}}],
		"restartPolicy":"Always","terminationGracePeriodSeconds":30,"serviceAccountName":"web"},"status":{}}`, strings.Join(managed, ","), strings.Join(containers, ",")))
}

func benchServer(b *testing.B) *Server {
	cfg := testConfig()
	s, err := NewServer(ServerConfig{
		Config:     func() Config { return cfg },
		Namespace:  func(_ context.Context, name string) (Namespace, error) { return enabled(name), nil },
		Registerer: prometheus.NewRegistry(),
		Logger:     slog.New(slog.DiscardHandler),
	})
	if err != nil {
		b.Fatal(err)
	}
	return s
}

// BenchmarkAdmission is one review from the body to the answer, without HTTP and TLS around it.
func BenchmarkAdmission(b *testing.B) {
	s := benchServer(b)
	for _, mode := range modes() {
		b.Run(string(mode), func(b *testing.B) {
			body := reviewOf(strings.Replace(string(fivePod()), `"annotations":{`, `"annotations":{"tulle.dev/mode":"`+string(mode)+`",`, 1), "shop")
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			for b.Loop() {
				r := httptest.NewRequest(http.MethodPost, "/inject", strings.NewReader(body))
				r.Header.Set("Content-Type", "application/json")
				w := httptest.NewRecorder()
				s.ServeHTTP(w, r)
				if w.Code != http.StatusOK {
					b.Fatal(w.Body)
				}
			}
		})
	}
}
