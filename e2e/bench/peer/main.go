// Command peer is the sidecar injector that most projects have: controller-runtime's webhook server around a function that
// decodes the pod into its Go type, changes that, and leaves it to gomodules.xyz/jsonpatch to find out what has changed.
//
// It does no more than it must to be compared with Tulle's host mode: each container gets as many variables of about the
// same length, at the end, where they cost least to find; the pod gets the label and the annotation. It has no rules, asks about
// no namespace, knows no second pass and warns of nothing.
//
//	peer -port 8443 -certificates DIR   # with files tls.crt and tls.key
package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"syscall"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/webhook"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"
)

func main() {
	port := flag.Int("port", 8443, "port of 127.0.0.1 to listen on")
	certificates := flag.String("certificates", ".", "directory of tls.crt and tls.key")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := serve(ctx, *port, *certificates); err != nil {
		fmt.Fprintln(os.Stderr, "peer:", err)
		os.Exit(1)
	}
}

func serve(ctx context.Context, port int, certificates string) error {
	log.SetLogger(logr.Discard())
	scheme := runtime.NewScheme()
	if err := corev1.AddToScheme(scheme); err != nil {
		return err
	}
	server := webhook.NewServer(webhook.Options{
		Host: "127.0.0.1", Port: port, CertDir: certificates,
		TLSOpts: []func(*tls.Config){func(c *tls.Config) { c.MinVersion = tls.VersionTLS13 }},
	})
	server.Register("/inject", &webhook.Admission{Handler: mutator{admission.NewDecoder(scheme)}})
	return server.Start(ctx)
}

type mutator struct{ decoder admission.Decoder }

// Handle implements admission.Handler.
func (m mutator) Handle(_ context.Context, req admission.Request) admission.Response {
	var pod corev1.Pod
	if err := m.decoder.Decode(req, &pod); err != nil {
		return admission.Errored(http.StatusBadRequest, err)
	}
	change(&pod)
	changed, err := json.Marshal(&pod)
	if err != nil {
		return admission.Errored(http.StatusInternalServerError, err)
	}
	return admission.PatchResponseFromRaw(req.Object.Raw, changed)
}

func change(pod *corev1.Pod) {
	if pod.Labels == nil {
		pod.Labels = map[string]string{}
	}
	pod.Labels["tulle.dev/mode"] = "host"
	if pod.Annotations == nil {
		pod.Annotations = map[string]string{}
	}
	pod.Annotations["tulle.dev/status"] = status
	for i := range pod.Spec.Containers {
		c := &pod.Spec.Containers[i]
		c.Env = append(c.Env, variables()...)
	}
}
