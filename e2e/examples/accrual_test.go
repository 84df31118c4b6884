package examples

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// One endpoint in five fails two requests of five: without failure accrual it goes on to get its share, five
// failures in a row never come, and its rate of success gives it away.
func TestFailureAccrual(t *testing.T) {
	l := newLab(t)
	n := l.place("a", 4140, 4141, 4142, 4143)
	var mu sync.Mutex
	seen := map[string]int{} // by the bad one, by path
	var broken atomic.Bool
	var disco strings.Builder
	for i := range 5 {
		endpoint := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if i > 0 || r.URL.Path == "/front" {
				return
			}
			mu.Lock()
			nth := seen[r.URL.Path]
			seen[r.URL.Path]++
			mu.Unlock()
			if nth%5 == 0 || nth%5 == 2 || broken.Load() {
				http.Error(w, "no", http.StatusInternalServerError)
			}
		}))
		t.Cleanup(endpoint.Close)
		host, port, err := net.SplitHostPort(endpoint.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintln(&disco, host, port)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "web"), []byte(disco.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	l.proxy(l.configuration("failure-accrual", "a", func(c map[string]any) {
		c["namers"].([]any)[0].(map[string]any)["rootDir"] = dir
		front := c["routers"].([]any)[0].(map[string]any)
		dtab := front["dtab"].(string)
		for port, at := range n.ports {
			dtab = strings.ReplaceAll(dtab, fmt.Sprint("127.1/", port), strings.Replace(at, ":", "/", 1))
		}
		front["dtab"] = dtab
	}), "a")
	// bad returns how many of the requests to a router failed, and how many the bad endpoint got.
	bad := func(port, requests int, path string) (failed, got int) {
		for range requests {
			switch a := l.get(n.ports[port], path, map[string]string{"Host": "web"}); a.status {
			case 200:
			case 500:
				failed++
			default:
				t.Fatalf("%s: %d %s", path, a.status, a.body)
			}
		}
		mu.Lock()
		defer mu.Unlock()
		return failed, seen[path]
	}
	// The front shares requests out among all three.
	before := requestsOf(l, n)
	for range 60 {
		l.get(n.ports[4140], "/front", map[string]string{"Host": "web"})
	}
	for router, asked := range requestsOf(l, n) {
		if asked == before[router] {
			t.Errorf("%s got none of the requests: %v", router, asked)
		}
	}
	const requests = 400
	share := requests / 10 // half of what the bad one gets by chance, five deviations away
	if _, got := bad(4141, requests, "/none"); got < share {
		t.Errorf("none: the bad endpoint got %d", got)
	}
	if _, got := bad(4142, requests, "/consecutive"); got < share {
		t.Errorf("consecutive: the bad endpoint got %d", got)
	}
	if failed, got := bad(4143, requests, "/rate"); got > 22 || failed > 10 {
		t.Errorf("rate: the bad endpoint got %d, and %d failed", got, failed)
	}
	broken.Store(true)
	if failed, _ := bad(4142, requests, "/consecutive, broken"); failed == 0 || failed > 5 {
		t.Errorf("consecutive: %d failed in a row", failed)
	}
}

// requestsOf returns how many requests each router of the example has had.
func requestsOf(l *lab, n *node) map[string]float64 {
	all := map[string]float64{"front": 0, "none": 0, "consecutive": 0, "rate": 0}
	for line := range strings.Lines(l.get(n.admin, "/metrics", nil).body) {
		labels, value, ok := strings.Cut(strings.TrimPrefix(line, "tulle_requests_total{"), "} ")
		if !ok || labels == line {
			continue
		}
		for router := range all {
			if strings.Contains(labels, `router="`+router+`"`) {
				asked, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
				if err != nil {
					l.t.Error(err)
				}
				all[router] += asked
			}
		}
	}
	return all
}
