package main

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"slices"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/tulle-mesh/tulle/internal/l5d"
	"github.com/tulle-mesh/tulle/naming/kubernetes/access"
	"github.com/tulle-mesh/tulle/naming/namer/namerd"
	"github.com/tulle-mesh/tulle/naming/registry"
)

// Rates of calls to the API server; client-go's own are for people.
const (
	callsPerSecond = 50
	callsBurst     = 100
)

// clients are the ways to the API server.
type clients struct {
	core    kubernetes.Interface
	access  kubernetes.Interface // for questions of strangers
	dynamic dynamic.Interface
}

// asksKubernetes reports whether anything that a file says needs the API server.
func asksKubernetes(c *namerd.Config) bool {
	return c.Kubernetes != "" || usesServices(c) || slices.ContainsFunc(c.Servers, func(s namerd.Server) bool { return mode(s) == access.RBAC })
}

// usesServices reports whether names can lead to Services of Kubernetes.
func usesServices(c *namerd.Config) bool {
	return slices.ContainsFunc(c.Namers, func(n registry.Namer) bool {
		switch n.Kind {
		case registry.Kubernetes, registry.KubernetesHere, registry.KubernetesExternal:
			return true
		}
		return slices.ContainsFunc(n.Transformers, func(t registry.Transformer) bool { return t.Kind == registry.DaemonSet })
	})
}

// reach returns how the API server is reached: by a kubeconfig file, as the pod that this is, or where the file says, as
// namerd does beside a kubectl proxy.
func reach(kubeconfig string, c *namerd.Config, log *slog.Logger) (*rest.Config, error) {
	said := cmp.Or(c.Kubernetes, l5d.DefaultKubernetes)
	config, counts := (*rest.Config)(nil), ""
	switch {
	case kubeconfig != "":
		var err error
		if config, err = clientcmd.BuildConfigFromFlags("", kubeconfig); err != nil {
			return nil, fmt.Errorf("read the kubeconfig: %w", err)
		}
		counts = "the kubeconfig " + kubeconfig
	case os.Getenv("KUBERNETES_SERVICE_HOST") != "":
		var err error
		config, err = rest.InClusterConfig()
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("reach Kubernetes as this pod: %w", err)
		}
		counts = "the service account of this pod" // if it has a token; else there may be a kubectl proxy beside it
	}
	if config == nil {
		config = &rest.Config{Host: "http://" + said, Proxy: func(*http.Request) (*url.URL, error) { return nil, nil }}
	} else if !l5d.SameAddress(said, l5d.DefaultKubernetes) {
		log.Warn("host and port of Kubernetes have no effect: "+counts+" says where it is", "file", c.File, "said", said, "at", config.Host)
	}
	config.UserAgent = "tulle-namer"
	config.QPS, config.Burst = callsPerSecond, callsBurst
	return config, nil
}

// connect makes clients, and asks nobody yet.
func connect(config *rest.Config) (*clients, error) {
	// Pods and slices come by the thousand; protobuf halves what it costs to read them.
	protobuf := rest.CopyConfig(config)
	protobuf.ContentType = runtime.ContentTypeProtobuf
	protobuf.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	var c clients
	var errs [3]error
	c.core, errs[0] = kubernetes.NewForConfig(protobuf)
	c.access, errs[1] = access.NewClient(protobuf)
	c.dynamic, errs[2] = dynamic.NewForConfig(config)
	if err := errors.Join(errs[:]...); err != nil {
		return nil, fmt.Errorf("make the Kubernetes clients: %w", err)
	}
	return &c, nil
}
