package dtab

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/streaming/pkg/httpstream"

	"github.com/tulle-mesh/tulle/cmd/tulle/kube"
)

// reach is the way to the namer, as flags and the environment say.
type reach struct {
	namer, token, ca, namespace string
	at                          kube.Flags
}

func (r *reach) flags(f *pflag.FlagSet) {
	f.StringVar(&r.namer, "namer", "", "URL of the namer, such as http://127.0.0.1:4180 (env TULLE_NAMER or NAMERCTL_BASE_URL); without one it is reached through the cluster")
	f.StringVar(&r.token, "token", "", "bearer token for the namer (env TULLE_TOKEN, which others on this machine cannot see)")
	f.StringVar(&r.ca, "ca", "", "file of the CA that an https namer is verified by (env TULLE_NAMER_CA; default: that of the system)")
	f.StringVarP(&r.namespace, "namespace", "n", "tulle", "namespace that Tulle runs in")
	r.at.Add(f)
}

// answerTime bounds a request; the namer itself gives up after a few seconds.
const answerTime = 30 * time.Second

// connect returns a client of the namer, and what closes the way to it.
func (r *reach) connect(ctx context.Context) (c *client, closeWay func(), err error) {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	c = &client{token: cmp.Or(r.token, os.Getenv("TULLE_TOKEN")), http: &http.Client{Transport: transport, Timeout: answerTime}}
	if ca := cmp.Or(r.ca, os.Getenv("TULLE_NAMER_CA")); ca != "" {
		pem, err := os.ReadFile(ca)
		pool := x509.NewCertPool()
		if err == nil && !pool.AppendCertsFromPEM(pem) {
			err = fmt.Errorf("there is no certificate in %s", ca)
		}
		if err != nil {
			return nil, nil, failed(fmt.Errorf("read the CA of the namer: %w", err), "")
		}
		transport.TLSClientConfig = &tls.Config{RootCAs: pool}
	}
	if base := cmp.Or(r.namer, os.Getenv("TULLE_NAMER"), os.Getenv("NAMERCTL_BASE_URL")); base != "" {
		u, err := url.Parse(base)
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			return nil, nil, misused(fmt.Errorf("%q is not the URL of a namer", base), "write it as http://127.0.0.1:4180")
		}
		c.base = u
		return c, transport.CloseIdleConnections, nil
	}
	port, stop, err := r.forward(ctx)
	if err != nil {
		return nil, nil, err
	}
	c.base = &url.URL{Scheme: "http", Host: "127.0.0.1:" + strconv.Itoa(int(port)), Path: "/"}
	transport.Proxy = nil
	return c, func() { transport.CloseIdleConnections(); stop() }, nil
}

// cluster returns how to reach the API server.
func (r *reach) cluster() (*rest.Config, error) {
	config, err := r.at.Config()
	if err != nil {
		return nil, failed(fmt.Errorf("%w: %w", errNoNamer, err), "say where the namer is with --namer or TULLE_NAMER, or name a cluster with --kubeconfig and --context")
	}
	return config, nil
}

// forward opens a port of this machine's loopback address that leads to a controller which is
// ready.
func (r *reach) forward(ctx context.Context) (port uint16, stop func(), err error) {
	config, err := r.cluster()
	if err != nil {
		return 0, nil, err
	}
	kube, err := kubernetes.NewForConfig(config)
	if err != nil {
		return 0, nil, failed(fmt.Errorf("%w: %w", errNoNamer, err), "")
	}
	lookup, cancelLookup := context.WithTimeout(ctx, answerTime)
	defer cancelLookup()
	pods, err := kube.CoreV1().Pods(r.namespace).List(lookup, metav1.ListOptions{LabelSelector: "app.kubernetes.io/name=tulle,app.kubernetes.io/component=controller"})
	if err != nil {
		return 0, nil, failed(fmt.Errorf("look for the controller in the namespace %s: %w", r.namespace, err), "say where the namer is with --namer, or name another cluster with --context")
	}
	pod := readyPod(pods.Items)
	if pod == nil {
		return 0, nil, failed(fmt.Errorf("no controller is ready in the namespace %s: %d of its pods are there", r.namespace, len(pods.Items)),
			fmt.Sprintf("kubectl get pods -n %s shows why; -n names the namespace that Tulle runs in", r.namespace))
	}
	target := kube.CoreV1().RESTClient().Post().Resource("pods").Namespace(pod.Namespace).Name(pod.Name).SubResource("portforward").URL()
	dialer, err := newDialer(config, target)
	if err != nil {
		return 0, nil, failed(fmt.Errorf("%w: %w", errNoNamer, err), "")
	}
	ctx, cancel := context.WithCancel(ctx)
	ready, ended := make(chan struct{}), make(chan error, 1)
	forwarder, err := portforward.NewOnAddressesForStreamingWithContext(ctx, dialer, []string{"127.0.0.1"}, []string{fmt.Sprintf("0:%d", namerPort(pod))}, ready, io.Discard, io.Discard)
	if err != nil {
		cancel()
		return 0, nil, failed(fmt.Errorf("%w: %w", errNoNamer, err), "")
	}
	go func() { ended <- forwarder.ForwardPorts() }()
	stop = func() { cancel(); <-ended }
	wait := time.NewTimer(answerTime)
	defer wait.Stop()
	select {
	case <-ready:
		ports, err := forwarder.GetPorts()
		if err != nil || len(ports) == 0 {
			stop()
			return 0, nil, failed(fmt.Errorf("%w: forward a port to pod %s: %v", errNoNamer, pod.Name, err), "")
		}
		return ports[0].Local, stop, nil
	case err = <-ended:
		cancel()
	case <-wait.C:
		// Whoever does not answer is not waited for.
		cancel()
		err = errors.New("the cluster does not answer")
	case <-ctx.Done():
		cancel()
		err = context.Cause(ctx)
	}
	return 0, nil, failed(fmt.Errorf("%w: forward a port to pod %s: %w", errNoNamer, pod.Name, err),
		fmt.Sprintf("this needs the right to create pods/portforward in the namespace %s; or use --namer", r.namespace))
}

// newDialer speaks SPDY within a WebSocket, and plain SPDY with what does not know that.
func newDialer(config *rest.Config, target *url.URL) (httpstream.Dialer, error) {
	transport, upgrader, err := spdy.RoundTripperFor(config)
	if err != nil {
		return nil, err
	}
	tunnel, err := portforward.NewSPDYOverWebsocketDialerForStreaming(target, config)
	if err != nil {
		return nil, err
	}
	plain := spdy.NewDialerForStreaming(upgrader, &http.Client{Transport: transport}, http.MethodPost, target)
	return portforward.NewFallbackDialerForStreaming(tunnel, plain, func(err error) bool {
		return httpstream.IsUpgradeFailure(err) || httpstream.IsHTTPSProxyError(err)
	}), nil
}

// readyPod returns the first pod that serves, nil if none does.
func readyPod(pods []corev1.Pod) *corev1.Pod {
	for i := range pods {
		p := &pods[i]
		if p.DeletionTimestamp != nil || p.Status.Phase != corev1.PodRunning {
			continue
		}
		for _, c := range p.Status.Conditions {
			if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
				return p
			}
		}
	}
	return nil
}

// namerPort is the port of the API, 4180 unless the pod says another.
func namerPort(p *corev1.Pod) int32 {
	for _, c := range p.Spec.Containers {
		for _, port := range c.Ports {
			if strings.EqualFold(port.Name, "namer") {
				return port.ContainerPort
			}
		}
	}
	return 4180
}
