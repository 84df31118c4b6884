package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/tulle-mesh/tulle/internal/counter"
)

const overrideRule = "/host/world => /srv/world-v2"

// walk shows what the mesh does, one step after the other, and checks each.
func (m *mesh) walk(ctx context.Context) error {
	c := m.newCaller()
	defer c.transport.CloseIdleConnections()
	for i, step := range []struct {
		title string
		run   func(context.Context, *caller) (string, error)
	}{
		{"A request through host proxies: hello on one host calls world", m.stepHost},
		{"The same app with a proxy in every pod, called from a host", m.stepSidecar},
		{"One request overrides where world is", m.stepOverride},
		{"Ten percent of world's requests shift to the new version", m.stepSplit},
		{"An instance of world is killed under load", m.stepKill},
	} {
		if !m.cfg.Once {
			m.say("%d. %s", i+1, step.title)
		}
		result, err := step.run(ctx, c)
		if err != nil {
			var known *Error
			if errors.As(err, &known) || errors.Is(err, context.Canceled) {
				return err
			}
			return &Error{fmt.Sprintf("step %d, %q, went wrong: %v", i+1, step.title, err), ""}
		}
		if m.cfg.Once {
			m.say("ok %d  %s: %s", i+1, step.title, strings.ReplaceAll(result, "\n", "; "))
		} else {
			m.say("   %s\n", strings.ReplaceAll(result, "\n", "\n   "))
		}
	}
	return nil
}

// show prints the command with which the user can do the same.
func (m *mesh) show(format string, args ...any) {
	if !m.cfg.Once {
		m.say("   $ "+format, args...)
	}
}

func (m *mesh) stepHost(ctx context.Context, c *caller) (string, error) {
	m.show("http_proxy=http://%s curl -s http://hello", c.proxy)
	return m.crossing(ctx, c, "http://hello", world)
}

func (m *mesh) stepSidecar(ctx context.Context, c *caller) (string, error) {
	target := "http://hello." + m.objects.sidecarNamespace
	m.show("http_proxy=http://%s curl -s %s", c.proxy, target)
	return m.crossing(ctx, c, target, world)
}

// crossing sends a request and tells by the proxies' own counters which of
// them it crossed.
func (m *mesh) crossing(ctx context.Context, c *caller, target string, want *regexp.Regexp) (string, error) {
	before, err := m.counters(ctx)
	if err != nil {
		return "", err
	}
	answer, err := c.expect(ctx, target, "", want)
	if err != nil {
		return "", err
	}
	// hello is called and calls world: two requests, each out of one proxy and
	// into another. They are counted just after their answers are sent.
	var crossed []string
	err = m.await(ctx, "the proxies to have counted two requests out and two in", func() bool {
		after, err := m.counters(ctx)
		if err != nil {
			return false
		}
		crossed = crossed[:0]
		out, in := 0, 0
		for _, p := range m.proxies {
			o := after[p.name]["outgoing"] - before[p.name]["outgoing"]
			i := after[p.name]["incoming"] - before[p.name]["incoming"]
			out, in = out+o, in+i
			if o+i > 0 {
				crossed = append(crossed, fmt.Sprintf("%s (%d out, %d in)", p.name, o, i))
			}
		}
		return out == 2 && in == 2
	})
	return answer + "\ncrossed " + strings.Join(crossed, ", "), err
}

func (m *mesh) stepOverride(ctx context.Context, c *caller) (string, error) {
	m.show("http_proxy=http://%s curl -s -H 'l5d-dtab: %s' http://hello", c.proxy, overrideRule)
	answer, err := c.expect(ctx, "http://hello", overrideRule, earth)
	if err != nil {
		return "", err
	}
	if _, err := c.expect(ctx, "http://hello", "", world); err != nil {
		return "", fmt.Errorf("without the header: %w", err)
	}
	return answer + "\nthe next request, without the header, sees world again", nil
}

const requests = 200

func (m *mesh) stepSplit(ctx context.Context, c *caller) (string, error) {
	split := baseDtab + " ; /host/world => 9 * /srv/world & 1 * /srv/world-v2"
	m.show("curl -s -X PUT -H 'Content-Type: application/dtab' http://%s/api/1/dtabs/default \\\n       -d '%s'", namerAddress, split)
	if err := m.putDtab(ctx, split); err != nil {
		return "", err
	}
	tally, err := c.load(ctx, requests, nil)
	if err != nil {
		return "", err
	}
	// Of 200 requests at 10 %, 20 are expected; fewer than 4 or more than 40
	// happen by chance once in 100,000 runs.
	if tally.earth < 4 || tally.earth > 40 || tally.failed > 0 {
		return "", fmt.Errorf("of %d requests %d saw the new version and %d failed (%s), want about 20 and 0", requests, tally.earth, tally.failed, tally.why)
	}
	if err := m.putDtab(ctx, baseDtab); err != nil {
		return "", err
	}
	return fmt.Sprintf("of %d requests %d saw earth, %d saw world", requests, tally.earth, tally.world), nil
}

func (m *mesh) stepKill(ctx context.Context, c *caller) (string, error) {
	var victim *pod
	for _, p := range m.pods {
		if p.spec.Namespace == m.objects.hostNamespace && p.spec.Labels["app"] == "world" && p.spec.Labels["version"] == "v1" {
			victim = p
		}
	}
	if victim == nil {
		return "", fmt.Errorf("the manifest has no app world in %s", m.objects.hostNamespace)
	}
	// A quarter of the way the instance dies. The endpoints go on naming it, as
	// they do in a cluster until the kubelet has noticed, so requests are still
	// sent there and must be saved by the proxies.
	tally, err := c.load(ctx, requests, func(sent int) {
		if sent == requests/4 {
			victim.crash()
		}
	})
	if err != nil {
		return "", err
	}
	if tally.failed > 0 {
		return "", fmt.Errorf("%d of %d requests failed: %s", tally.failed, requests, tally.why)
	}
	m.publish() // the endpoint controller has noticed
	if err := m.restart(ctx, victim); err != nil {
		return "", err
	}
	return fmt.Sprintf("%s killed after %d of %d requests, none failed; it has been restarted", victim.spec.Name, requests/4, requests), nil
}

// restart starts the application of a crashed pod again, as the kubelet would.
func (m *mesh) restart(ctx context.Context, p *pod) error {
	for _, c := range p.spec.Spec.Containers {
		if _, err := m.startContainer(p, c); err != nil {
			return err
		}
		m.applications--
	}
	if err := m.awaitApp(ctx, p); err != nil {
		return err
	}
	m.publish()
	return nil
}

// putDtab writes the mesh's dtab through namerd's API and waits until every
// proxy routes by it.
func (m *mesh) putDtab(ctx context.Context, dtab string) error {
	target := "http://" + namerAddress + "/api/1/dtabs/default"
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, target, strings.NewReader(dtab))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/dtab")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("write the dtab: %w", err)
	}
	_ = res.Body.Close()
	if res.StatusCode != http.StatusNoContent {
		return fmt.Errorf("write the dtab: the namer answers %s", res.Status)
	}
	// The namer prints the dtab in its canonical form; so do the proxies.
	req, err = http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Accept", "application/dtab")
	want, err := fetch(req)
	if err != nil {
		return err
	}
	return m.await(ctx, "all proxies to have the new dtab", func() bool {
		for _, p := range m.proxies {
			got, err := get(ctx, "http://"+p.admin+"/admin/dtab")
			if err != nil || strings.TrimSpace(got) != strings.TrimSpace(want) {
				return false
			}
		}
		return true
	})
}

func (m *mesh) farewell() {
	m.say("The mesh stays until Ctrl-C. Its admin pages, /metrics on each:")
	for _, p := range m.proxies {
		m.say("   http://%-22s %s", p.admin, p.name)
	}
	m.say("The dtab: http://%s/api/1/dtabs/default", namerAddress)
}

// caller sends requests into the mesh through the proxy of the first host.
type caller struct {
	proxy     string
	transport *http.Transport
	client    *http.Client
}

func (m *mesh) newCaller() *caller {
	c := &caller{proxy: m.proxies[0].outgoing}
	c.transport = &http.Transport{Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: c.proxy})}
	c.client = &http.Client{Transport: c.transport, Timeout: patience}
	return c
}

// The answers of the example, with and without addresses in parentheses.
var (
	world = regexp.MustCompile(`^Hello \([0-9.]+\) world \([0-9.]+\)!!$`)
	earth = regexp.MustCompile(`^Hello \([0-9.]+\) earth \([0-9.]+\)!!$`)
)

func (c *caller) get(ctx context.Context, target, dtab string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return "", err
	}
	if dtab != "" {
		req.Header.Set("l5d-dtab", dtab)
	}
	res, err := c.client.Do(req)
	if err != nil {
		return "", err
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", res.Status, strings.TrimSpace(string(body)))
	}
	return string(body), err
}

func (c *caller) expect(ctx context.Context, target, dtab string, want *regexp.Regexp) (string, error) {
	answer, err := c.get(ctx, target, dtab)
	if err == nil && !want.MatchString(answer) {
		err = fmt.Errorf("%s answered %q, want %s", target, answer, want)
	}
	return answer, err
}

// tally counts answers.
type tally struct {
	world, earth, failed int
	why                  string // the first failure
}

// load sends n requests to hello, four at a time. during is called with the
// number of each request before it is sent, for one at a time.
func (c *caller) load(ctx context.Context, n int, during func(sent int)) (tally, error) {
	var (
		mu   sync.Mutex
		t    tally
		sent int
		wg   sync.WaitGroup
	)
	next := func() bool {
		mu.Lock()
		defer mu.Unlock()
		if sent == n || ctx.Err() != nil {
			return false
		}
		if during != nil {
			during(sent)
		}
		sent++
		return true
	}
	for range 4 {
		wg.Go(func() {
			for next() {
				answer, err := c.get(ctx, "http://hello", "")
				mu.Lock()
				switch {
				case err == nil && world.MatchString(answer):
					t.world++
				case err == nil && earth.MatchString(answer):
					t.earth++
				default:
					if t.failed++; t.failed == 1 {
						t.why = fmt.Sprintf("%q, %v", answer, err)
					}
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return t, ctx.Err()
}

// counters reads how many requests each proxy has answered, by router.
func (m *mesh) counters(ctx context.Context) (map[string]map[string]int, error) {
	all := map[string]map[string]int{}
	for _, p := range m.proxies {
		text, err := get(ctx, "http://"+p.admin+"/metrics")
		if err != nil {
			return nil, err
		}
		all[p.name] = map[string]int{}
		for _, router := range []string{"outgoing", "incoming"} {
			n, err := counter.Sum(strings.NewReader(text), "tulle_requests_total", map[string]string{"router": router})
			if err != nil {
				return nil, fmt.Errorf("the %s: %w", p.name, err)
			}
			all[p.name][router] = n
		}
	}
	return all, nil
}

// isReady reports whether the proxy with this admin address says it is.
func isReady(admin string) bool {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_, err := get(ctx, "http://"+admin+"/admin/ready")
	return err == nil
}

func get(ctx context.Context, target string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return "", err
	}
	return fetch(req)
}

func fetch(req *http.Request) (string, error) {
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s answers %s: %s", req.URL, res.Status, body)
	}
	return string(body), err
}
