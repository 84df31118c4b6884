//go:build e2e

package names

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"

	"github.com/tulle-mesh/tulle/e2e/cluster"
	"github.com/tulle-mesh/tulle/e2e/cluster/apitest"
	"github.com/tulle-mesh/tulle/e2e/cluster/suite"
	"github.com/tulle-mesh/tulle/manifests"
)

// api is the API server of all tests that do not stop it; TestMain sets it.
var api *cluster.API

func TestMain(m *testing.M) {
	if kubeconfig := os.Getenv(readerOf); kubeconfig != "" {
		if err := read(kubeconfig); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(apitest.Run(m, &api, start))
}

// start starts an API server that knows DTabs.
func start(ctx context.Context) (*cluster.API, error) {
	a, err := cluster.StartAPI(ctx, cluster.Options{})
	if err != nil {
		return nil, err
	}
	if err := define(ctx, a); err != nil {
		return nil, errors.Join(err, a.Close())
	}
	return a, nil
}

// define tells an API server about DTabs.
func define(ctx context.Context, a *cluster.API) error {
	definition, err := dtabDefinition()
	if err != nil {
		return err
	}
	if err := a.Apply(ctx, definition); err != nil {
		return err
	}
	_, err = a.Kubectl(ctx, nil, "wait", "--for=condition=Established", "--timeout=30s", "crd/dtabs.l5d.io")
	return err
}

// dtabDefinition returns the CustomResourceDefinition as the chart has it.
func dtabDefinition() (string, error) {
	chart, err := manifests.Render("tulle", nil)
	if err != nil {
		return "", err
	}
	for doc := range strings.SplitSeq(string(chart), "---\n") {
		if strings.Contains(doc, "kind: CustomResourceDefinition") {
			return doc, nil
		}
	}
	return "", fmt.Errorf("the chart defines no DTabs")
}

// namespace makes a Kubernetes namespace for a test.
func namespace(t *testing.T, a *cluster.API) string {
	t.Helper()
	n, err := a.Client().CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "t-"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return n.Name
}

func dynamicClient(t *testing.T, config *rest.Config) dynamic.Interface {
	t.Helper()
	c, err := dynamic.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func run(t *testing.T, what func(context.Context) error) (stop func()) { return suite.Go(t, what) }

func logger(t *testing.T) *slog.Logger { return suite.Logger(t) }

// patience is how long tests wait for what takes milliseconds on a machine that is idle.
const patience = 30 * time.Second
