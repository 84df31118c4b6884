//go:build e2e

package admission

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tulle-mesh/tulle/certs/issuer"
	"github.com/tulle-mesh/tulle/e2e/cluster/suite"
	"github.com/tulle-mesh/tulle/webhook/serving"
)

func values(certificate string) map[string]any {
	return map[string]any{"createNamespace": false, "injector": map[string]any{"certificate": certificate}}
}

// authorities returns the serial numbers in the bundle of each entry of all configurations, which must be the same.
func authorities(t *testing.T) []string {
	t.Helper()
	var all []string
	for i, name := range configurations() {
		config, err := api.Client().AdmissionregistrationV1().MutatingWebhookConfigurations().Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for j, h := range config.Webhooks {
			var serials []string
			for rest := h.ClientConfig.CABundle; ; {
				var block *pem.Block
				if block, rest = pem.Decode(rest); block == nil {
					break
				}
				c, err := x509.ParseCertificate(block.Bytes)
				if err != nil {
					t.Fatal(err)
				}
				serials = append(serials, c.SerialNumber.String())
			}
			if i == 0 && j == 0 {
				all = serials
			} else if !slices.Equal(all, serials) {
				return nil // not yet, or never
			}
		}
	}
	return all
}

// The certificate is renewed every few seconds, its CA is lost twice, a replica leaves and another one comes, while pods are
// admitted without a pause: none fails.
func TestRotation(t *testing.T) {
	m := install(t, values("self"))
	// A certificate lives for nine seconds: it is renewed every six, and what a lost CA has signed is soon gone.
	config := serving.Config{LeafDuration: 9 * time.Second, Settle: time.Second}
	first, second := m.start(t, "first", config), m.start(t, "second", config)
	ns := namespace(t, map[string]string{"tulle.dev/inject": "enabled"})
	await(t, "the first admission", func(ctx context.Context) (bool, string) { err := admit(ctx, ns); return err == nil, fmt.Sprint(err) })

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var admitted, failed atomic.Int64
	var failure atomic.Value
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			for ctx.Err() == nil {
				if err := admit(ctx, ns); err == nil {
					admitted.Add(1)
				} else if ctx.Err() == nil {
					failed.Add(1)
					failure.CompareAndSwap(nil, err.Error())
				}
			}
		})
	}

	seen := map[string]bool{} // certificates
	look := func() {
		for _, r := range []*replica{first, second} {
			if c, err := r.certificate.GetCertificate(nil); err == nil {
				seen[c.Leaf.SerialNumber.String()] = true
			}
		}
	}
	secrets := api.Client().CoreV1().Secrets(m.namespace)
	for round := range 2 {
		before := authorities(t)
		if len(before) == 0 {
			t.Fatal("the entries have no bundle, or not the same one")
		}
		if err := secrets.Delete(ctx, "tulle-webhook-ca", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		await(t, "old and new CA to be published", func(context.Context) (bool, string) {
			now := authorities(t)
			return len(now) > 1 && !slices.Equal(now, before) && slices.Contains(now, before[0]), fmt.Sprint(now)
		})
		await(t, "every replica to serve what the new CA has signed", func(context.Context) (bool, string) {
			look()
			for _, r := range []*replica{first, second} {
				if c, err := r.certificate.GetCertificate(nil); err != nil || !signed(t, m, c.Leaf) {
					return false, fmt.Sprint(err)
				}
			}
			return true, ""
		})
		await(t, "the old CA to leave the bundle", func(context.Context) (bool, string) {
			look()
			now := authorities(t)
			return len(now) == 1 && !slices.Contains(now, before[0]), fmt.Sprint(now)
		})
		if round == 0 {
			first.stop()
			first = m.start(t, "third", config)
		}
	}
	awaitFor(t, 8*time.Minute, "ten thousand admissions", func(context.Context) (bool, string) {
		look()
		n := admitted.Load()
		return n >= 10000, fmt.Sprint(n)
	})
	cancel()
	group.Wait()
	t.Logf("%d admissions, %d certificates, calls of the last two replicas: %d and %d", admitted.Load(), len(seen), first.calls.Load(), second.calls.Load())
	if failed.Load() > 0 {
		t.Errorf("%d admissions failed, the first: %s", failed.Load(), failure.Load())
	}
	if len(seen) < 6 {
		t.Errorf("only %d certificates were served", len(seen))
	}
}

// signed reports whether a certificate is of the CA that is in the Secret now.
func signed(t *testing.T, m *mesh, leaf *x509.Certificate) bool {
	t.Helper()
	secret, err := api.Client().CoreV1().Secrets(m.namespace).Get(t.Context(), "tulle-webhook-ca", metav1.GetOptions{})
	if err != nil {
		return false
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(secret.Data[corev1.TLSCertKey])
	_, err = leaf.Verify(x509.VerifyOptions{Roots: roots})
	return err == nil
}

// Whoever installs the chart again, by whichever tool, leaves the bundle alone; who takes it away gets it back at once.
func TestBundleIsOurs(t *testing.T) {
	m := install(t, values("self"))
	m.start(t, "one", serving.Config{Settle: 10 * time.Millisecond})
	ns := namespace(t, map[string]string{"tulle.dev/inject": "enabled"})
	admits := func() {
		t.Helper()
		await(t, "an admission", func(ctx context.Context) (bool, string) { err := admit(ctx, ns); return err == nil, fmt.Sprint(err) })
	}
	admits()
	before := authorities(t)
	m.apply(t, values("self"))
	for range 2 { // the way of kubectl apply, and of Helm before version 4
		m.applyAs(t, values("self"))
	}
	if now := authorities(t); !slices.Equal(now, before) {
		t.Errorf("an upgrade changed the bundle from %v to %v", before, now)
	}
	admits()
	configs := api.Client().AdmissionregistrationV1().MutatingWebhookConfigurations()
	config, err := configs.Get(t.Context(), "tulle-injector", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var owned []string
	for _, f := range config.ManagedFields {
		if f.Manager == serving.FieldManager {
			owned = append(owned, f.FieldsV1.GetRawString())
		} else if strings.Contains(f.FieldsV1.GetRawString(), "caBundle") {
			t.Errorf("%s owns the bundle: %s", f.Manager, f.FieldsV1.GetRawString())
		}
	}
	if all := strings.Join(owned, ""); len(owned) != 1 || strings.Count(all, "f:caBundle") != len(config.Webhooks) || strings.Contains(all, "failurePolicy") {
		t.Errorf("we own %s", all)
	}
	for i := range config.Webhooks {
		config.Webhooks[i].ClientConfig.CABundle = nil
	}
	if _, err := configs.Update(t.Context(), config, metav1.UpdateOptions{FieldManager: "vandal"}); err != nil {
		t.Fatal(err)
	}
	await(t, "the bundle to be back", func(context.Context) (bool, string) {
		now := authorities(t)
		return slices.Equal(now, before), fmt.Sprint(now)
	})
	admits()
}

// While the API server is away certificates are renewed all the same, and once it is back nothing has to be repaired.
func TestOutage(t *testing.T) {
	m := install(t, values("self"))
	r := m.start(t, "one", serving.Config{LeafDuration: 9 * time.Second, Settle: time.Second})
	ns := namespace(t, map[string]string{"tulle.dev/inject": "enabled"})
	admits := func() {
		t.Helper()
		await(t, "an admission", func(ctx context.Context) (bool, string) { err := admit(ctx, ns); return err == nil, fmt.Sprint(err) })
	}
	admits()
	serial := func() string {
		c, err := r.certificate.GetCertificate(nil)
		if err != nil {
			t.Fatal(err)
		}
		return c.Leaf.SerialNumber.String()
	}
	before, seen := authorities(t), serial()
	if err := api.Stop(); err != nil {
		t.Fatal(err)
	}
	await(t, "a new certificate without an API server", func(context.Context) (bool, string) { return serial() != seen, "" })
	if why := r.certificate.NotReady(); why != "" {
		t.Errorf("not ready for want of an API server: %s", why)
	}
	if err := api.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	admits()
	if now := authorities(t); !slices.Equal(now, before) {
		t.Errorf("the bundle was %v, and is %v", before, now)
	}
	if err := api.Client().CoreV1().Secrets(m.namespace).Delete(t.Context(), "tulle-webhook-ca", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	await(t, "a new CA", func(context.Context) (bool, string) {
		now := authorities(t)
		return len(now) > 0 && !slices.Contains(before, now[0]), fmt.Sprint(now)
	})
	admits()
}

// A mesh whose certificates came from cert-manager begins to make its own: replicas of both kinds serve side by side, and
// no admission fails.
func TestFromCertManager(t *testing.T) {
	m := install(t, values("self"))
	ca, err := issuer.NewLocal(time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := ca.Server(time.Hour, "tulle-controller."+m.namespace+".svc")
	if err != nil {
		t.Fatal(err)
	}
	configs := api.Client().AdmissionregistrationV1().MutatingWebhookConfigurations()
	for _, name := range configurations() {
		config, err := configs.Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for i := range config.Webhooks {
			config.Webhooks[i].ClientConfig.CABundle = ca.Roots()
		}
		if _, err := configs.Update(t.Context(), config, metav1.UpdateOptions{FieldManager: "cainjector"}); err != nil {
			t.Fatal(err)
		}
	}
	m.endpoint(t, "old", serveBy(t, pair, m.injector(t, prometheus.NewRegistry())))
	ns := namespace(t, map[string]string{"tulle.dev/inject": "enabled"})
	await(t, "the first admission", func(ctx context.Context) (bool, string) { err := admit(ctx, ns); return err == nil, fmt.Sprint(err) })

	var failure atomic.Value
	admitted := 0
	stop := suite.Go(t, func(ctx context.Context) error {
		for ctx.Err() == nil {
			if err := admit(ctx, ns); err != nil && ctx.Err() == nil {
				failure.CompareAndSwap(nil, err.Error())
			}
			admitted++
		}
		return nil
	})
	r := m.start(t, "new", serving.Config{Settle: time.Second})
	await(t, "fifty calls of the new replica", func(context.Context) (bool, string) { n := r.calls.Load(); return n >= 50, fmt.Sprint(n) })
	stop()
	if failure.Load() != nil {
		t.Errorf("of %d admissions some failed, the first: %s", admitted, failure.Load())
	}
	if now := authorities(t); len(now) != 2 {
		t.Errorf("the bundle has %v", now)
	}
}
