package main

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/tulle-mesh/tulle/internal/logtest"
	"github.com/tulle-mesh/tulle/webhook/settings"
)

func clusterNode(name, address, kubelet string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
	n.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: address}}
	n.Status.NodeInfo.KubeletVersion = kubelet
	return n
}

// What nodes decide follows them as they come, change and go, and is logged when it changes.
func TestNodes(t *testing.T) {
	client, log := fake.NewClientset(clusterNode("a", "10.0.0.1", "v1.37.2")), &logtest.Buffer{}
	n := newNodes(slog.New(slog.NewTextHandler(log, nil)))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx, client) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	expect := func(want settings.Facts) {
		t.Helper()
		deadline := time.After(20 * time.Second)
		for n.Facts() != want {
			select {
			case <-deadline:
				t.Fatalf("the facts are %+v, want %+v", n.Facts(), want)
			case <-time.After(5 * time.Millisecond):
			}
		}
	}
	<-n.synced
	expect(settings.Facts{HostAddress: "hostIP"})
	all := client.CoreV1().Nodes()
	if _, err := all.Create(ctx, clusterNode("b", "fd00::2", "v1.28.1"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	expect(settings.Facts{HostAddress: "service", Classic: true})
	if _, err := all.Update(ctx, clusterNode("b", "fd00::2", "v1.29.0"), metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	expect(settings.Facts{HostAddress: "service"})
	if err := all.Delete(ctx, "a", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	expect(settings.Facts{HostAddress: "hostIPv6"})
	// The last change holds before it is logged.
	for deadline := time.After(20 * time.Second); strings.Count(log.String(), "the nodes have changed") < 3; {
		select {
		case <-deadline:
			t.Fatalf("three changes were to be logged:\n%s", log)
		case <-time.After(5 * time.Millisecond):
		}
	}
}
