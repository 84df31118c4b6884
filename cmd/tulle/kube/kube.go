// Package kube is how the commands of tulle reach a cluster: by the flags and the kubeconfig of kubectl.
//
// It is no client of its own and knows no object of Tulle. Invariant: whichever cluster, user and namespace kubectl
// would take with the same flags and the same environment is taken here.
//
//	var to kube.Flags
//	to.Add(cmd.Flags())
//	client, err := to.Client()
package kube

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/pflag"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// AnswerTime bounds one question to a cluster, so that no command waits for ever for one that is not there.
const AnswerTime = 30 * time.Second

// ErrNone says that no kubeconfig names a cluster. [Flags.Config] wraps it.
var ErrNone = errors.New("no kubeconfig names a cluster")

// Hint is what to do when there is no way to a cluster.
const Hint = "name a cluster with --kubeconfig and --context, as for kubectl"

// Flags say which cluster is meant. The zero value is the one that kubectl takes without flags.
type Flags struct {
	Context    string // of the kubeconfig; empty for the current one
	Kubeconfig string // path; empty for $KUBECONFIG, else ~/.kube/config, else the pod's own account
}

// Add adds --context and --kubeconfig.
func (f *Flags) Add(flags *pflag.FlagSet) {
	flags.StringVar(&f.Context, "context", "", "context of the kubeconfig")
	flags.StringVar(&f.Kubeconfig, "kubeconfig", "", "path of the kubeconfig")
}

func (f *Flags) load() clientcmd.ClientConfig {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = f.Kubeconfig
	return clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: f.Context})
}

// Config returns how to reach the API server, which it does not ask. The caller may change the result.
func (f *Flags) Config() (*rest.Config, error) {
	config, err := f.load().ClientConfig()
	if err != nil && clientcmd.IsEmptyConfig(err) {
		err = ErrNone
	}
	return config, err
}

// Client returns a client of the API server whose questions end after [AnswerTime].
func (f *Flags) Client() (*kubernetes.Clientset, error) {
	config, err := f.Config()
	if err != nil {
		return nil, err
	}
	config.Timeout = AnswerTime
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("read the kubeconfig: %w", err)
	}
	return client, nil
}

// Namespace is the one that kubectl takes without -n: that of the context, else "default".
func (f *Flags) Namespace() string {
	if namespace, _, err := f.load().Namespace(); err == nil && namespace != "" {
		return namespace
	}
	return "default"
}
