package sidecar

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/tulle-mesh/tulle/internal/watch"
	"github.com/tulle-mesh/tulle/naming/namer"
	"github.com/tulle-mesh/tulle/naming/namer/api"
)

// The namers that the controller sends give names their meaning from the next
// request on, under load and without a failure; wrong ones change nothing. When the
// controller is gone, everything goes on, and whoever asks is told.
func TestNamersOfTheMesh(t *testing.T) {
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Led", r.Header.Get("l5d-dst-client"))
		fmt.Fprint(w, "hello")
	}))
	defer backend.Close()
	namers := watch.New([]byte(nil))
	store, err := namer.NewMemory(map[string]string{"default": "/svc => /#/edge/shop/http | /#/io.l5d.k8s/shop/http"})
	if err != nil {
		t.Fatal(err)
	}
	cfg, stopControl := control(t, nil, backend.Listener.Addr().String(), func(c *namer.StreamConfig) {
		c.Store, c.Namers = store, namers
	})
	defer stopControl()
	p := serve(t, cfg, cfg.Admin, slog.New(slog.DiscardHandler))
	defer http.DefaultClient.CloseIdleConnections()
	get := func(page string) string {
		req, err := http.NewRequest(http.MethodGet, "http://"+page, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = "web"
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			return err.Error()
		}
		defer res.Body.Close()
		if led := res.Header.Get("Led"); led != "" {
			return led
		}
		body, _ := io.ReadAll(res.Body)
		return fmt.Sprint(res.StatusCode, " ", string(body))
	}

	loading, enough := context.WithCancel(t.Context())
	var answers atomic.Int64
	var load sync.WaitGroup
	load.Go(func() {
		if err := requests(loading, cfg.Outgoing, true, &answers); err != nil || loading.Err() == nil {
			t.Errorf("a connection ended: %v", err)
		}
	})
	leads := func(id string) {
		t.Helper()
		eventually(t, "the name leads to "+id, func() bool { return get(cfg.Outgoing) == id })
		before := answers.Load()
		eventually(t, "more answers", func() bool { return answers.Load() > before+10 })
	}
	leads("/#/io.l5d.k8s/shop/http/web")
	namers.Set([]byte("- kind: io.l5d.k8s\n  prefix: /edge\n"))
	leads("/#/edge/shop/http/web")
	namers.Set([]byte("- kind: io.l5d.k9s\n"))
	leads("/#/edge/shop/http/web")

	stopControl()
	eventually(t, "no controller", func() bool { return !p.namer.Connected() })
	leads("/#/edge/shop/http/web")
	ready := regexp.MustCompile(`^200 ready; the namer has not been heard for \d+s: routing goes on with what was known\n$`)
	if got := get(cfg.Admin + "/admin/ready"); !ready.MatchString(got) {
		t.Errorf("/admin/ready says %q", got)
	}
	for page, wants := range map[string][]string{
		"/metrics":                      {"tulle_namer_connected 0", "tulle_namer_silent_seconds ", "tulle_names_followed 2", "tulle_names_known 2"},
		"/namer_state":                  {`"connected": false`, `"silentSeconds"`, `"error"`, `"id": "/#/edge/shop/http/web"`, `"outgoing"`},
		"/bound-names.json":             {`"/#/edge/shop/http/web"`},
		"/config.json":                  {`"label": "outgoing"`, `"mode": "sidecar"`, `"token-file"`, `prefix: /edge`},
		"/admin/dtab":                   {"/svc=>/#/edge/shop/http | /#/io.l5d.k8s/shop/http"},
		"/delegator.json?path=/svc/web": {`{"type":"alt","path":"/svc/web"`, `"id":"/#/edge/shop/http/web"`},
		"/delegator.json?path=/svc/web&dtab=/svc=>/$/fail": {`"type":"fail"`},
	} {
		for _, want := range wants {
			if got := get(cfg.Admin + strings.ReplaceAll(page, "=>", "%3D%3E")); !strings.HasPrefix(got, "200 ") || !strings.Contains(got, want) {
				t.Errorf("%s has no %s:\n%s", page, want, got)
			}
		}
	}
	if got := get(cfg.Admin + "/config.json"); strings.Contains(got, "secret") || strings.Contains(got, "BEGIN CERT") {
		t.Error(got)
	}
	want := api.Name{Namespace: "shop", Path: "/svc/web"}
	if used := p.inUse(); len(used) != 1 || used[0] != want {
		t.Errorf("in use are %v", used)
	}
	enough()
	load.Wait()
}
