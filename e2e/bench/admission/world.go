//go:build linux

package admission

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"
)

// Namespaces for pods: one that has joined the mesh, and one that has not.
const (
	Joined = "shop"
	Apart  = "apart"

	mesh = "tulle" // where the controller keeps its own things
)

// clients is how many create the pods of a burst, each as a user of its own.
const clients = 20

// World is an API server with a webhook.
type World struct {
	config *rest.Config
	client kubernetes.Interface
}

// NewWorld creates the namespaces, with the account that pods have, and nodes, which decide how pods are injected.
func NewWorld(ctx context.Context, config *rest.Config) (*World, error) {
	config = rest.CopyConfig(config)
	config.QPS = -1 // no limit: the server has its own
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	w := &World{config, client}
	for name, inject := range map[string]string{Joined: "enabled", Apart: "disabled", mesh: "disabled"} {
		namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"tulle.dev/inject": inject}}}
		if _, err := client.CoreV1().Namespaces().Create(ctx, namespace, metav1.CreateOptions{}); err != nil {
			return nil, fmt.Errorf("create namespace %s: %w", name, err)
		}
		sa := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}
		if _, err := client.CoreV1().ServiceAccounts(name).Create(ctx, sa, metav1.CreateOptions{}); err != nil {
			return nil, fmt.Errorf("create service account %s/default: %w", name, err)
		}
	}
	binding := &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: group}, Subjects: []rbacv1.Subject{{Kind: "Group", APIGroup: rbacv1.GroupName, Name: group}},
		RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"}}
	if _, err := client.RbacV1().ClusterRoleBindings().Create(ctx, binding, metav1.CreateOptions{}); err != nil {
		return nil, fmt.Errorf("give the right to create pods: %w", err)
	}
	for i := range 3 {
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-" + strconv.Itoa(i)}, Status: corev1.NodeStatus{
			Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.168.0." + strconv.Itoa(1+i)}},
			NodeInfo:  corev1.NodeSystemInfo{KubeletVersion: "v1.37.0", OperatingSystem: "linux"},
		}}
		if _, err := client.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{}); err != nil {
			return nil, fmt.Errorf("create node: %w", err)
		}
	}
	return w, nil
}

// pod is one of five containers, in a mode, with what the API server's plugin for service accounts adds, which is off
// where there are no controllers.
func pod(mode string) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			GenerateName: "web-5d8c6b9f7-",
			Labels:       map[string]string{"app": "web", "pod-template-hash": "5d8c6b9f7"},
			Annotations:  map[string]string{"checksum/config": "3f786850e387550fdab836ed7e6dc881de23001b", "tulle.dev/mode": mode},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "web-5d8c6b9f7",
				UID: "5f1d7a2c-0000-4000-8000-000000000000", Controller: new(true), BlockOwnerDeletion: new(true)}},
		},
	}
	p.Spec.ServiceAccountName = "default"
	p.Spec.Volumes = []corev1.Volume{{Name: "kube-api-access-x7k2p", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
		{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{ExpirationSeconds: new(int64(3607)), Path: "token"}},
		{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "kube-root-ca.crt"}, Items: []corev1.KeyToPath{{Key: "ca.crt", Path: "ca.crt"}}}},
		{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{{Path: "namespace", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.namespace"}}}}},
	}}}}}
	for i := range 5 {
		c := corev1.Container{
			Name: "app-" + strconv.Itoa(i), Image: "registry.test/shop/app:" + strconv.Itoa(i),
			Ports: []corev1.ContainerPort{{Name: "http-" + strconv.Itoa(i), ContainerPort: int32(8080 + i)}},
			Resources: corev1.ResourceRequirements{
				Limits:   corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("128Mi")},
				Requests: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("64Mi"), corev1.ResourceCPU: resource.MustParse("10m")},
			},
			VolumeMounts:   []corev1.VolumeMount{{Name: p.Spec.Volumes[0].Name, ReadOnly: true, MountPath: "/var/run/secrets/kubernetes.io/serviceaccount"}},
			ReadinessProbe: &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/ready", Port: intstr.FromString("http-" + strconv.Itoa(i))}}},
		}
		for j := range 8 {
			c.Env = append(c.Env, corev1.EnvVar{Name: "SETTING_" + strconv.Itoa(j), Value: "value " + strconv.Itoa(j)})
		}
		c.Env = append(c.Env, corev1.EnvVar{Name: "POD_IP", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "status.podIP"}}})
		p.Spec.Containers = append(p.Spec.Containers, c)
	}
	return p
}

// Capture returns what the API server asks a webhook about a pod of five containers in a mode, to the byte. The
// certificate is one for 127.0.0.1 that is good by the roots in PEM.
func (w *World) Capture(ctx context.Context, certificate tls.Certificate, roots []byte, mode string) ([]byte, error) {
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS13})
	if err != nil {
		return nil, err
	}
	reviews := make(chan []byte, 1)
	server := &http.Server{ReadHeaderTimeout: patience, Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if body, err := io.ReadAll(r.Body); err == nil {
			select {
			case reviews <- body:
			default:
			}
		}
	})}
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	defer func() {
		_ = server.Close()
		<-done
	}()
	url := "https://" + listener.Addr().String() + "/"
	configurations := w.client.AdmissionregistrationV1().MutatingWebhookConfigurations()
	c := &admissionregistrationv1.MutatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "capture"}, Webhooks: []admissionregistrationv1.MutatingWebhook{{
		Name: "capture.tulle.test", AdmissionReviewVersions: []string{"v1"}, SideEffects: new(admissionregistrationv1.SideEffectClassNone),
		FailurePolicy: new(admissionregistrationv1.Ignore), // there is no answer
		ClientConfig:  admissionregistrationv1.WebhookClientConfig{URL: &url, CABundle: roots},
		Rules: []admissionregistrationv1.RuleWithOperations{{Operations: []admissionregistrationv1.OperationType{admissionregistrationv1.Create},
			Rule: admissionregistrationv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"pods"}}}},
	}}}
	if _, err := configurations.Create(ctx, c, metav1.CreateOptions{}); err != nil {
		return nil, fmt.Errorf("register a webhook: %w", err)
	}
	defer func() { _ = configurations.Delete(context.WithoutCancel(ctx), c.Name, metav1.DeleteOptions{}) }()
	// It takes the API server a moment to hear of its webhook.
	for range 100 {
		p, err := w.client.CoreV1().Pods(Joined).Create(ctx, pod(mode), metav1.CreateOptions{})
		if err != nil {
			return nil, fmt.Errorf("create a pod: %w", err)
		}
		if err := w.client.CoreV1().Pods(Joined).Delete(ctx, p.Name, metav1.DeleteOptions{GracePeriodSeconds: new(int64(0))}); err != nil {
			return nil, fmt.Errorf("delete a pod: %w", err)
		}
		select {
		case review := <-reviews:
			return review, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
	return nil, errors.New("the API server asks its webhook about no pod")
}

// Register registers the chart's webhook for pods, at a port of this machine and with roots in PEM, and waits until the
// API server asks it.
func (w *World) Register(ctx context.Context, chart []byte, port string, roots []byte) error {
	for object := range strings.SplitSeq(string(chart), "\n---\n") {
		if !strings.Contains(object, "\nkind: MutatingWebhookConfiguration\n") || !strings.Contains(object, "\n  name: tulle-injector\n") {
			continue
		}
		var c admissionregistrationv1.MutatingWebhookConfiguration
		if err := yaml.UnmarshalStrict([]byte(object), &c); err != nil {
			return fmt.Errorf("read the chart's webhook: %w", err)
		}
		// This address leads to loopback and does not look so: to webhooks of which it knows that they are on its own
		// machine, and to no others, an API server speaks HTTP/2.
		url := "https://0.0.0.0:" + port + "/inject"
		for i := range c.Webhooks {
			c.Webhooks[i].ClientConfig = admissionregistrationv1.WebhookClientConfig{URL: &url, CABundle: roots}
		}
		if _, err := w.client.AdmissionregistrationV1().MutatingWebhookConfigurations().Create(ctx, &c, metav1.CreateOptions{}); err != nil {
			return fmt.Errorf("register the webhook: %w", err)
		}
		return w.await(ctx)
	}
	return errors.New("the chart has no webhook tulle-injector")
}

func (w *World) await(ctx context.Context) error {
	for range 100 {
		p, err := w.client.CoreV1().Pods(Joined).Create(ctx, pod("host"), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		if err != nil {
			return fmt.Errorf("create a pod: %w", err)
		}
		if injected(p) {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
	return errors.New("the API server does not ask its webhook")
}

func injected(p *corev1.Pod) bool { return p.Labels["tulle.dev/mode"] != "" }

// Burst creates so many pods in a namespace at once, half of them in each mode, and returns how long it took until the last
// one was there. It fails if one is refused, is asked for twice, or is not injected in Joined. The pods are deleted.
func (w *World) Burst(ctx context.Context, namespace string, n int) (time.Duration, error) {
	var requests atomic.Int64
	var refusal atomic.Pointer[string]
	var all [clients]kubernetes.Interface
	for i := range all {
		config := rest.CopyConfig(w.config)
		config.Dial = (&net.Dialer{Timeout: patience}).DialContext // its own, so that clients share no connection
		config.Impersonate = user(i)
		config.Wrap(func(next http.RoundTripper) http.RoundTripper { return counting{next, &requests, &refusal} })
		var err error
		if all[i], err = kubernetes.NewForConfig(config); err != nil {
			return 0, err
		}
		// The connection is there before the burst.
		if _, err := all[i].Discovery().ServerVersion(); err != nil {
			return 0, fmt.Errorf("connect to the API server: %w", err)
		}
	}
	requests.Store(0)
	start := make(chan struct{})
	failures := make([]error, n)
	var group sync.WaitGroup
	for i := range n {
		mode := "host"
		if i%2 == 1 {
			mode = "sidecar"
		}
		p := pod(mode)
		group.Go(func() {
			<-start
			made, err := all[i%clients].CoreV1().Pods(namespace).Create(ctx, p, metav1.CreateOptions{})
			switch {
			case err != nil:
				failures[i] = err
			case injected(made) != (namespace == Joined):
				failures[i] = fmt.Errorf("pod %s has the labels %v", made.Name, made.Labels)
			}
		})
	}
	begin := time.Now()
	close(start)
	group.Wait()
	took := time.Since(begin)
	failures = slices.DeleteFunc(failures, func(err error) bool { return err == nil })
	if len(failures) > 0 {
		return 0, fmt.Errorf("%d of %d pods were not admitted within %s, the first one because: %w", len(failures), n, took, failures[0])
	}
	if sent := requests.Load(); sent != int64(n) {
		why := "nothing that the API server said"
		if said := refusal.Load(); said != nil {
			why = *said
		}
		return 0, fmt.Errorf("for %d pods %d requests were sent within %s, so some were retried, because of %s", n, sent, took, why)
	}
	err := w.client.CoreV1().Pods(namespace).DeleteCollection(ctx, metav1.DeleteOptions{GracePeriodSeconds: new(int64(0))}, metav1.ListOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return 0, fmt.Errorf("delete the pods: %w", err)
	}
	return took, nil
}

// group is that of those who create pods, which may do so.
const group = "tulle-bench"

// user is the i-th of those who create the pods of a burst. Unlike an administrator's, their requests wait in the API server's
// queues (priority and fairness) while it does as many as it can at a time.
func user(i int) rest.ImpersonationConfig {
	return rest.ImpersonationConfig{UserName: fmt.Sprintf("system:serviceaccount:%s:deployer-%d", Joined, i),
		Groups: []string{"system:serviceaccounts", "system:authenticated", group}}
}

// counting counts requests, and keeps the first answer that is no pod.
type counting struct {
	next    http.RoundTripper
	count   *atomic.Int64
	refusal *atomic.Pointer[string]
}

func (c counting) RoundTrip(r *http.Request) (*http.Response, error) {
	c.count.Add(1)
	res, err := c.next.RoundTrip(r)
	if err == nil && res.StatusCode >= http.StatusBadRequest && c.refusal.Load() == nil {
		body, err := io.ReadAll(res.Body)
		_ = res.Body.Close()
		res.Body = io.NopCloser(bytes.NewReader(body))
		said := fmt.Sprintf("%s: %s (%v)", res.Status, bytes.TrimSpace(body), err)
		c.refusal.CompareAndSwap(nil, &said)
	}
	return res, err
}
