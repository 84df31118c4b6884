package serving

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	cmtls "github.com/cert-manager/cert-manager/pkg/server/tls"
	"github.com/cert-manager/cert-manager/pkg/server/tls/authority"
	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	acadmission "k8s.io/client-go/applyconfigurations/admissionregistration/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/tulle-mesh/tulle/internal/feed"
)

// FieldManager is who owns the caBundle of each entry, and nothing else of the configurations.
const FieldManager = "tulle-webhook-ca"

// Defaults of Config.
const (
	// DefaultCADuration is how long a CA signs at most; it is replaced after two thirds of that.
	DefaultCADuration = 365 * 24 * time.Hour
	// DefaultLeafDuration is how long a certificate is good for; it is replaced after two thirds of that. It is also how
	// long an old CA stays in the bundle.
	DefaultLeafDuration = 24 * time.Hour
	// DefaultSettle is more than API servers take to hear of a new bundle, and than clocks of a cluster are apart.
	DefaultSettle = 5 * time.Second
)

const (
	tick        = time.Second      // between looks at what the source has made
	reconcile   = time.Minute      // between looks at a bundle that nobody has changed, for what is too old in it, at most
	firstDelay  = time.Second      // before the source or a write is tried again,
	longestWait = 30 * time.Second // and at most
)

// Config is what a Certificate needs.
type Config struct {
	// REST leads to the API server, for cert-manager's authority, which makes a client of its own; Client leads there too.
	REST   *rest.Config
	Client kubernetes.Interface
	// Namespace and Secret are where the CA is kept. All replicas must name the same.
	Namespace, Secret string
	// DNSNames are what the certificate is for.
	DNSNames []string
	// Configurations are the MutatingWebhookConfigurations whose entries are to trust the CA, all of them.
	Configurations []string
	// CADuration, LeafDuration and Settle are for tests; zero for the defaults.
	CADuration, LeafDuration, Settle time.Duration
	// Registerer receives the metrics.
	Registerer prometheus.Registerer
	// Logger hears of new certificates, of new bundles and of what fails.
	Logger *slog.Logger
}

// Certificate is the certificate of one replica of the webhook. Its methods are safe for concurrent use.
type Certificate struct {
	cfg    Config
	source *cmtls.DynamicSource
	writes *prometheus.CounterVec
	wake   chan struct{}

	mu      sync.Mutex
	ca      *x509.Certificate // that of the Secret
	configs map[string]*configuration
	read    int // configurations that have been looked for
	trust   trust
	called  bool // whether there is an entry at all
	serving *tls.Certificate
	pending *tls.Certificate // newer than serving, and not trusted by everybody yet
	ready   bool
}

// configuration is what counts of one MutatingWebhookConfiguration.
type configuration struct {
	version string
	entries []string
	bundles [][]byte // of each entry
}

// New returns a Certificate that does nothing yet. The error is that of registering metrics.
func New(cfg Config) (*Certificate, error) {
	def := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	def(&cfg.CADuration, DefaultCADuration)
	def(&cfg.LeafDuration, DefaultLeafDuration)
	def(&cfg.Settle, DefaultSettle)
	c := &Certificate{
		cfg: cfg, wake: make(chan struct{}, 1), configs: map[string]*configuration{}, trust: trust{},
		source: &cmtls.DynamicSource{
			DNSNames: cfg.DNSNames,
			Authority: &authority.DynamicAuthority{
				SecretNamespace: cfg.Namespace, SecretName: cfg.Secret,
				SecretLabels: map[string]string{"app.kubernetes.io/name": "tulle", "app.kubernetes.io/component": "injector"},
				RESTConfig:   cfg.REST, CommonName: cfg.Secret,
				CADuration: cfg.CADuration, LeafDuration: cfg.LeafDuration,
			},
		},
		writes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tulle_injector_ca_bundle_writes_total",
			Help: "Attempts of this replica to write the CA bundle into a webhook configuration.",
		}, []string{"result"}),
	}
	for _, result := range []string{"ok", "failed"} {
		c.writes.WithLabelValues(result)
	}
	return c, errors.Join(cfg.Registerer.Register(c.writes), RegisterExpiry(cfg.Registerer, c.NotAfter))
}

// RegisterExpiry registers the metric of when the webhook's certificate runs out, whoever made it.
func RegisterExpiry(r prometheus.Registerer, notAfter func() time.Time) error {
	return r.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "tulle_injector_certificate_expiry_timestamp_seconds",
		Help: "When the certificate that the webhook serves runs out, in seconds since 1970; 0 while there is none.",
	}, func() float64 {
		if t := notAfter(); !t.IsZero() {
			return float64(t.Unix())
		}
		return 0
	}))
}

// Run keeps the CA, the certificate and the bundles up to date until ctx is done, and then returns nil with all of its
// goroutines gone. It needs the rights that the chart gives: to create, read and update the Secret, and to read and
// patch the configurations. While the API server is away, what has been made stays in use and is renewed.
func (c *Certificate) Run(ctx context.Context) error {
	var group sync.WaitGroup
	group.Go(func() { c.make(ctx) })
	group.Go(func() { c.followSecret(ctx) })
	for _, name := range c.cfg.Configurations {
		group.Go(func() { c.followConfiguration(ctx, name) })
	}
	c.keep(ctx)
	group.Wait()
	return nil
}

// make has cert-manager's source make certificates, whatever ends it.
func (c *Certificate) make(ctx context.Context) {
	quiet := logr.NewContext(ctx, logr.FromSlogHandler(quiet{c.cfg.Logger.Handler()}))
	wait := firstDelay
	for ctx.Err() == nil {
		began := time.Now()
		err := c.source.Start(quiet)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > longestWait {
			wait = firstDelay
		}
		c.cfg.Logger.Warn("the maker of the webhook's certificate has ended, starting it again", "error", err, "after", wait)
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
		wait = min(2*wait, longestWait)
	}
}

// quiet leaves of a log what went wrong.
type quiet struct{ slog.Handler }

func (q quiet) Enabled(ctx context.Context, level slog.Level) bool {
	return level >= slog.LevelWarn && q.Handler.Enabled(ctx, level)
}

func (c *Certificate) followSecret(ctx context.Context) {
	secrets := c.cfg.Client.CoreV1().Secrets(c.cfg.Namespace)
	set := func(pem []byte) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.ca = nil
		if all := parseBundle(pem); len(all) > 0 {
			c.ca = all[0]
		}
		c.wakeUp()
	}
	feed.Feed{
		Kind: "secret " + c.cfg.Secret, Example: &corev1.Secret{}, Selector: "metadata.name=" + c.cfg.Secret,
		Client: c.cfg.Client, Watch: secrets.Watch, Logger: c.cfg.Logger,
		List:   func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return secrets.List(ctx, o) },
		Apply:  func(o runtime.Object) { set(o.(*corev1.Secret).Data[corev1.TLSCertKey]) },
		Remove: func(string, string) {}, // the authority makes another one; until then the old is not in doubt
		Known:  func() []types.NamespacedName { return nil },
		Read:   func() {},
	}.Run(ctx)
}

func (c *Certificate) followConfiguration(ctx context.Context, name string) {
	all := c.cfg.Client.AdmissionregistrationV1().MutatingWebhookConfigurations()
	set := func(now *configuration) {
		c.mu.Lock()
		defer c.mu.Unlock()
		if now == nil {
			delete(c.configs, name)
		} else {
			c.configs[name] = now
		}
		c.retrust()
		c.wakeUp()
	}
	first := sync.OnceFunc(func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.read++
		c.retrust()
		c.wakeUp()
	})
	feed.Feed{
		Kind: "webhook configuration " + name, Example: &admissionv1.MutatingWebhookConfiguration{}, Selector: "metadata.name=" + name,
		Client: c.cfg.Client, Watch: all.Watch, Logger: c.cfg.Logger,
		List: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return all.List(ctx, o) },
		Apply: func(o runtime.Object) {
			config := o.(*admissionv1.MutatingWebhookConfiguration)
			now := &configuration{version: config.ResourceVersion}
			for _, h := range config.Webhooks {
				now.entries, now.bundles = append(now.entries, h.Name), append(now.bundles, h.ClientConfig.CABundle)
			}
			set(now)
		},
		Remove: func(string, string) { set(nil) },
		Known: func() []types.NamespacedName {
			c.mu.Lock()
			defer c.mu.Unlock()
			if c.configs[name] == nil {
				return nil
			}
			return []types.NamespacedName{{Name: name}}
		},
		Read: first,
	}.Run(ctx)
}

// wakeUp has keep look again.
func (c *Certificate) wakeUp() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// retrust takes in what the configurations say as of now. Call it with the lock held.
func (c *Certificate) retrust() {
	var bundles [][]byte
	for _, config := range c.configs {
		bundles = append(bundles, config.bundles...)
	}
	now := time.Now()
	if c.read < len(c.cfg.Configurations) {
		now = time.Time{} // what we find was there before us
	}
	c.trust, c.called = c.trust.next(bundles, now), len(bundles) > 0
}

// keep writes bundles and takes certificates into use, until ctx is done.
func (c *Certificate) keep(ctx context.Context) {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	var next time.Time // for another look at the bundles, if nobody has changed them
	failing, wait, changed := false, firstDelay, true
	for {
		if changed || !time.Now().Before(next) {
			err := c.publish(ctx)
			switch {
			case ctx.Err() != nil:
			case err == nil:
				if failing {
					c.cfg.Logger.Info("wrote the CA bundle again")
				}
				failing, wait, next = false, firstDelay, time.Now().Add(min(reconcile, c.cfg.LeafDuration/4))
			default:
				if !failing {
					c.cfg.Logger.Warn("cannot write the CA bundle by which API servers know the injector, trying again", "error", err)
				}
				failing, next, wait = true, time.Now().Add(wait), min(2*wait, longestWait)
			}
		}
		c.promote(time.Now())
		select {
		case <-c.wake:
			changed = !failing // or else it is tried again when that is due
		case <-ticker.C:
			changed = false
		case <-ctx.Done():
			return
		}
	}
}

// publish writes the bundle into each entry that has another one.
func (c *Certificate) publish(ctx context.Context) error {
	c.mu.Lock()
	var published []*x509.Certificate
	for _, config := range c.configs {
		for _, b := range config.bundles {
			published = append(published, parseBundle(b)...)
		}
	}
	bundle := merge(published, c.ca, time.Now(), c.cfg.LeafDuration)
	type write struct {
		name string
		*configuration
	}
	var writes []write
	for _, name := range c.cfg.Configurations {
		config := c.configs[name]
		if bundle != nil && config != nil && slices.ContainsFunc(config.bundles, func(b []byte) bool { return string(b) != string(bundle) }) {
			writes = append(writes, write{name, config})
		}
	}
	c.mu.Unlock()
	var errs []error
	for _, w := range writes {
		object := acadmission.MutatingWebhookConfiguration(w.name).WithResourceVersion(w.version) // so that news are not undone
		for _, entry := range w.entries {
			object.WithWebhooks(acadmission.MutatingWebhook().WithName(entry).WithClientConfig(acadmission.WebhookClientConfig().WithCABundle(bundle...)))
		}
		_, err := c.cfg.Client.AdmissionregistrationV1().MutatingWebhookConfigurations().Apply(ctx, object, metav1.ApplyOptions{FieldManager: FieldManager, Force: true})
		if apierrors.IsConflict(err) {
			continue // somebody else, another replica most likely, was quicker: the news of it will have us look again
		}
		if err != nil {
			c.writes.WithLabelValues("failed").Inc()
			errs = append(errs, fmt.Errorf("write the CA bundle of %s: %w", w.name, err))
			continue
		}
		c.writes.WithLabelValues("ok").Inc()
		c.cfg.Logger.Info("wrote the CA bundle by which API servers know the injector", "configuration", w.name, "authorities", len(parseBundle(bundle)))
	}
	return errors.Join(errs...)
}

// promote takes what the source has made into use once every API server trusts it: one that does not would admit no pods.
func (c *Certificate) promote(now time.Time) {
	latest, err := c.source.GetCertificate(nil)
	if err != nil {
		return // there is none yet
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.serving == latest {
		c.settle(now)
		return
	}
	if c.pending != latest {
		c.pending = latest
		c.cfg.Logger.Info("the webhook has a new certificate", "not_after", latest.Leaf.NotAfter)
	}
	if c.serving == nil || !now.Before(c.serving.Leaf.NotAfter.Add(-c.cfg.LeafDuration/10)) || c.trusted(latest.Leaf, now) == "" {
		c.serving, c.pending = latest, nil
		c.settle(now)
	}
}

// settle notes that the certificate is fit for use; from then on it stays so.
func (c *Certificate) settle(now time.Time) {
	c.ready = c.ready || c.trusted(c.serving.Leaf, now) == ""
}

// trusted says why a certificate is not trusted by everybody yet, or nothing. Call it with the lock held.
func (c *Certificate) trusted(leaf *x509.Certificate, now time.Time) string {
	since, ok := c.trust.of(leaf)
	switch {
	case c.read < len(c.cfg.Configurations):
		return "the webhook configurations " + strings.Join(c.cfg.Configurations, ", ") + " are not read yet"
	case c.called && !ok:
		return "the webhook configurations do not have the CA of the webhook's certificate yet"
	case c.called && now.Sub(since) < c.cfg.Settle:
		return "not every API server may know the CA of the webhook's certificate yet"
	case now.Sub(leaf.NotBefore) < c.cfg.Settle:
		return "the webhook's certificate is so new that it may not be valid by every API server's clock"
	}
	return ""
}

// GetCertificate is for tls.Config.
func (c *Certificate) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.serving == nil {
		return nil, errors.New("the webhook's certificate is not made yet")
	}
	return c.serving, nil
}

// NotAfter returns when the certificate that is served runs out; zero while there is none.
func (c *Certificate) NotAfter() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.serving == nil {
		return time.Time{}
	}
	return c.serving.Leaf.NotAfter
}

// NotReady says why API servers should not be sent here, or nothing. A replica that has been ready once stays so until
// its certificate runs out: what breaks trust later breaks it for all of them, and to leave would repair nothing.
func (c *Certificate) NotReady() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	switch {
	case c.serving == nil:
		return "the webhook's certificate is not made yet"
	case now.After(c.serving.Leaf.NotAfter):
		return "the webhook's certificate ran out at " + c.serving.Leaf.NotAfter.Format(time.RFC3339)
	case c.ready:
		return ""
	}
	return c.trusted(c.serving.Leaf, now)
}
