//go:build e2e

package names

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/dynamic"
	clients "k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/naming/kubernetes"
	"github.com/tulle-mesh/tulle/naming/kubernetes/store"
	"github.com/tulle-mesh/tulle/naming/rewrite"
)

// readerOf is the environment variable that makes of the test binary a program that reads a cluster, whose
// kubeconfig it is, and tells what that took.
const readerOf = "TULLE_TEST_READ"

// cost is what a reader prints.
type cost struct {
	Seconds            float64
	Peak, Resident, Go uint64 // bytes: of the process, at most and then; and of the objects that live
	Bound              int    // names that are bound
}

// TestScale reads a large cluster: 1,000 pods, or SCALE services of ten pods each. The limits are those of a controller
// with 10,000.
func TestScale(t *testing.T) {
	services := 100
	if s := os.Getenv("SCALE"); s != "" {
		var err error
		if services, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	a, err := start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = a.Close() }()
	began := time.Now()
	config := a.RESTConfig()
	config.QPS = -1 // without a limit
	config.ContentType = kruntime.ContentTypeProtobuf
	client, err := clients.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	if err := populate(t.Context(), client, services); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d services with 10 pods each are there after %.1f s", services, time.Since(began).Seconds())
	reader := exec.CommandContext(t.Context(), os.Args[0])
	reader.Env = append(os.Environ(), readerOf+"="+a.Kubeconfig())
	var out, errs bytes.Buffer
	reader.Stdout, reader.Stderr = &out, &errs
	if err := reader.Run(); err != nil {
		t.Fatalf("%v\n%s", err, errs.String())
	}
	var c cost
	if err := json.Unmarshal(out.Bytes(), &c); err != nil {
		t.Fatalf("%v in %s", err, out.String())
	}
	const mb = 1 << 20
	t.Logf("read in %.2f s; %d MB at most, %d MB then, of which %d MB are objects in use", c.Seconds, c.Peak/mb, c.Resident/mb, c.Go/mb)
	if c.Bound != services {
		t.Errorf("%d names of %d are bound", c.Bound, services)
	}
	if c.Seconds > 10 || c.Peak > 200*mb {
		t.Error("that is too much")
	}
}

// read is the reader. It runs what a controller runs of this, with a name of each Service followed.
func read(kubeconfig string) error {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return err
	}
	debug.SetMemoryLimit(200 << 20)
	began := time.Now()
	objects, err := dynamic.NewForConfig(config)
	if err != nil {
		return err
	}
	config.ContentType = kruntime.ContentTypeProtobuf
	client, err := clients.NewForConfig(config)
	if err != nil {
		return err
	}
	index, err := kubernetes.NewIndex(kubernetes.Config{})
	if err != nil {
		return err
	}
	dtabs, err := store.New(store.Config{Client: objects, Namespace: "default"})
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(context.Background())
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	g.Go(func() error { return index.Run(ctx, client) })
	g.Go(func() error { return dtabs.Run(ctx) })
	<-index.Synced()
	if _, err := dtabs.Names().Wait(ctx, func(n []string) bool { return n != nil }); err != nil {
		return err
	}
	c := cost{Seconds: time.Since(began).Seconds()}
	for i := range 100_000 {
		r, release := index.Replicas(rewrite.KubernetesID("default", "http", fmt.Sprint("s", i)))
		if r.Get().State != naming.StateBound {
			release()
			break
		}
		c.Bound++
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return err
	}
	c.Peak, c.Resident = field(status, "VmHWM:"), field(status, "VmRSS:")
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	c.Go = m.HeapAlloc
	cancel()
	if err := g.Wait(); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(c)
}

// field reads kilobytes of /proc/self/status.
func field(status []byte, name string) uint64 {
	_, rest, _ := strings.Cut(string(status), name)
	n, _ := strconv.ParseUint(strings.Fields(rest)[0], 10, 64)
	return n << 10
}

// populate makes services of ten pods each on 100 nodes, as large as pods are once a cluster runs them.
func populate(ctx context.Context, client clients.Interface, services int) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(16)
	for i := range services {
		g.Go(func() error {
			name := fmt.Sprint("s", i)
			s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": name}}}
			s.Spec.Ports = []corev1.ServicePort{{Name: "http", Port: 80, TargetPort: intstr.FromInt32(8080)}}
			if _, err := client.CoreV1().Services("default").Create(ctx, s, metav1.CreateOptions{}); err != nil {
				return err
			}
			l := &discoveryv1.EndpointSlice{AddressType: discoveryv1.AddressTypeIPv4,
				ObjectMeta: metav1.ObjectMeta{Name: name + "-abcde", Labels: map[string]string{discoveryv1.LabelServiceName: name, "app": name}},
				Ports:      []discoveryv1.EndpointPort{{Name: new("http"), Port: new(int32(8080)), Protocol: new(corev1.ProtocolTCP)}},
			}
			for j := range 10 {
				p := fatPod(name, i, j)
				status := p.Status
				made, err := client.CoreV1().Pods("default").Create(ctx, p, metav1.CreateOptions{})
				if err != nil {
					return err
				}
				made.Status = status
				if _, err := client.CoreV1().Pods("default").UpdateStatus(ctx, made, metav1.UpdateOptions{}); err != nil {
					return err
				}
				l.Endpoints = append(l.Endpoints, discoveryv1.Endpoint{
					Addresses: []string{status.PodIP}, NodeName: &made.Spec.NodeName,
					Conditions: discoveryv1.EndpointConditions{Ready: new(true), Serving: new(true), Terminating: new(false)},
					TargetRef:  &corev1.ObjectReference{Kind: "Pod", Namespace: "default", Name: made.Name, UID: made.UID},
				})
			}
			_, err := client.DiscoveryV1().EndpointSlices("default").Create(ctx, l, metav1.CreateOptions{})
			return err
		})
	}
	return g.Wait()
}

// fatPod is a pod of about eight kilobytes.
func fatPod(service string, i, j int) *corev1.Pod {
	n := i*10 + j
	ip := fmt.Sprintf("10.%d.%d.%d", n/62500, n/250%250, n%250+1)
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
		Name:        fmt.Sprintf("%s-7d4b9c8f6d-%05d", service, j),
		Labels:      map[string]string{"app": service, "pod-template-hash": "7d4b9c8f6d", "tulle.dev/mode": "sidecar"},
		Annotations: map[string]string{"checksum/config": strings.Repeat("0", 64), "prometheus.io/scrape": "true"},
	}}
	p.Spec.NodeName, p.Spec.ServiceAccountName = fmt.Sprint("node-", n%100), service
	for _, c := range []string{"app", "tulle-proxy"} {
		container := corev1.Container{Name: c, Image: "registry.example.org/team/" + service + ":1.2.3"}
		for e := range 30 {
			container.Env = append(container.Env, corev1.EnvVar{Name: fmt.Sprint("SETTING_OF_THE_APP_", e), Value: strings.Repeat("x", 40)})
		}
		p.Spec.Containers = append(p.Spec.Containers, container)
		p.Status.ContainerStatuses = append(p.Status.ContainerStatuses, corev1.ContainerStatus{Name: c, Ready: true, Image: container.Image, ImageID: container.Image + "@sha256:" + strings.Repeat("0", 64)})
	}
	p.Status.Phase, p.Status.PodIP, p.Status.PodIPs = corev1.PodRunning, ip, []corev1.PodIP{{IP: ip}}
	p.Status.HostIP, p.Status.HostIPs = fmt.Sprint("192.168.0.", n%100+1), []corev1.HostIP{{IP: fmt.Sprint("192.168.0.", n%100+1)}}
	for _, c := range []corev1.PodConditionType{corev1.PodScheduled, corev1.PodInitialized, corev1.ContainersReady, corev1.PodReady} {
		p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: c, Status: corev1.ConditionTrue})
	}
	return p
}
