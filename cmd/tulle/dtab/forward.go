package dtab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/klog/v2"
	"k8s.io/streaming/pkg/httpstream"

	"github.com/tulle-mesh/tulle/cmd/tulle/fault"
)

// forwardTime bounds opening the way to one controller. A node that lost its power takes its pods
// out of the list only after forty seconds, and the next controller may be well.
const forwardTime = 10 * time.Second

// target is a controller that is ready.
type target struct {
	config *rest.Config
	kube   kubernetes.Interface
	pod    corev1.Pod
}

// controllers returns the controllers that are ready, at least one.
func (r *reach) controllers(ctx context.Context) ([]target, error) {
	config, err := r.cluster()
	if err != nil {
		return nil, err
	}
	kube, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fault.Failed(fmt.Errorf("%w: %w", errNoNamer, err), "")
	}
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	pods, err := kube.CoreV1().Pods(r.namespace).List(ctx, metav1.ListOptions{LabelSelector: "app.kubernetes.io/name=tulle,app.kubernetes.io/component=controller"})
	if err != nil {
		hint := "say where the namer is with --namer, or name another cluster with --context"
		if inner := (*url.Error)(nil); errors.As(err, &inner) {
			err = fmt.Errorf("ask the API server at %s: %w", config.Host, inner.Err)
		}
		if apierrors.IsForbidden(err) {
			hint = fmt.Sprintf("this needs the right to list pods in the namespace %s; or use --namer", r.namespace)
		}
		return nil, fault.Failed(fmt.Errorf("look for the controller in the namespace %s: %w", r.namespace, err), hint)
	}
	var ready []target
	for _, p := range pods.Items {
		if isReady(&p) {
			ready = append(ready, target{config, kube, p})
		}
	}
	if len(ready) == 0 {
		what := "none of its " + count(len(pods.Items), "pod") + " is"
		if len(pods.Items) == 0 {
			what = "it has no pods there"
		}
		return nil, fault.Failed(fmt.Errorf("no controller is ready in the namespace %s: %s", r.namespace, what),
			fmt.Sprintf("kubectl get pods -n %s shows why; -n names the namespace that Tulle runs in", r.namespace))
	}
	return ready, nil
}

// through returns a client of one controller, and what closes the way to it.
func (r *reach) through(ctx context.Context, t target) (c *client, closeWay func(), err error) {
	failures := &failures{}
	port, stop, err := t.forward(klog.NewContext(ctx, klog.New(failures)))
	if err != nil {
		return nil, nil, err
	}
	c, transport := r.client()
	c.why = failures.last
	transport.Proxy = nil
	c.base = &url.URL{Scheme: "http", Host: "127.0.0.1:" + strconv.Itoa(int(port)), Path: "/"}
	c.name = "pod " + t.pod.Name
	c.pod, c.namespace = t.pod.Name, t.pod.Namespace
	return c, func() { transport.CloseIdleConnections(); stop() }, nil
}

// forward opens a port of this machine's loopback address that leads to a controller.
func (t target) forward(ctx context.Context) (port uint16, stop func(), err error) {
	dialer, err := t.dialer()
	if err != nil {
		return 0, nil, fault.Failed(fmt.Errorf("forward a port to pod %s: %w", t.pod.Name, err), "")
	}
	ctx, cancel := context.WithCancel(ctx)
	ready, ended := make(chan struct{}), make(chan error, 1)
	forwarder, err := portforward.NewOnAddressesForStreamingWithContext(ctx, dialer, []string{"127.0.0.1"}, []string{fmt.Sprintf("0:%d", namerPort(&t.pod))}, ready, io.Discard, io.Discard)
	if err != nil {
		cancel()
		return 0, nil, fault.Failed(fmt.Errorf("forward a port to pod %s: %w", t.pod.Name, err), "")
	}
	go func() { ended <- forwarder.ForwardPorts() }()
	stop = func() { cancel(); <-ended }
	wait := time.NewTimer(forwardTime)
	defer wait.Stop()
	select {
	case <-ready:
		ports, err := forwarder.GetPorts()
		if err != nil || len(ports) == 0 {
			stop()
			return 0, nil, fault.Failed(fmt.Errorf("forward a port to pod %s: %v", t.pod.Name, err), "")
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
	return 0, nil, fault.Failed(fmt.Errorf("forward a port to pod %s: %w", t.pod.Name, err),
		fmt.Sprintf("this needs the right to create pods/portforward in the namespace %s; or use --namer", t.pod.Namespace))
}

// dialer speaks SPDY within a WebSocket, and plain SPDY with what does not know that.
func (t target) dialer() (httpstream.Dialer, error) {
	at := t.kube.CoreV1().RESTClient().Post().Resource("pods").Namespace(t.pod.Namespace).Name(t.pod.Name).SubResource("portforward").URL()
	transport, upgrader, err := spdy.RoundTripperFor(t.config)
	if err != nil {
		return nil, err
	}
	tunnel, err := portforward.NewSPDYOverWebsocketDialerForStreaming(at, t.config)
	if err != nil {
		return nil, err
	}
	plain := spdy.NewDialerForStreaming(upgrader, &http.Client{Transport: transport}, http.MethodPost, at)
	return portforward.NewFallbackDialerForStreaming(tunnel, plain, func(err error) bool {
		return httpstream.IsUpgradeFailure(err) || httpstream.IsHTTPSProxyError(err)
	}), nil
}

// failures keeps what a port that is forwarded fails at. The library logs it, before it closes the
// connection, and tells nobody else.
type failures struct {
	mu  sync.Mutex
	err error
}

// last returns the last failure, nil if there was none.
func (f *failures) last() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

// Error implements klog.LogSink, as do the others.
func (f *failures) Error(err error, _ string, _ ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = err
}

func (f *failures) Init(klog.RuntimeInfo)          {}
func (f *failures) Enabled(int) bool               { return false }
func (f *failures) Info(int, string, ...any)       {}
func (f *failures) WithValues(...any) klog.LogSink { return f }
func (f *failures) WithName(string) klog.LogSink   { return f }

// isReady reports whether a pod serves, and will for a while.
func isReady(p *corev1.Pod) bool {
	if p.DeletionTimestamp != nil || p.Status.Phase != corev1.PodRunning {
		return false
	}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
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
