package namer_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/internal/watch"
	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/naming/namer"
)

// call sends one request, whose headers are pairs, and returns "status body" and the answer.
func call(h http.Handler, method, path, body string, header ...string) (string, *http.Response) {
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return strings.TrimSpace(fmt.Sprint(w.Code, " ", w.Body.String())), w.Result()
}

const (
	shop   = "/api/1/dtabs/shopns"
	asJSON = "application/json"
	asDtab = "application/dtab"
)

// Every row of the table of namerd's dtab API, in the order of a session.
func TestAPI(t *testing.T) {
	store := memory(t, map[string]string{"default": "/svc => /host ; /host => 1 * /a & 9 * /b"})
	h := namer.NewAPI(namer.APIConfig{Store: store, Logger: quiet})
	for i, c := range []struct {
		method, path, body string
		header             []string
		want               string
		etag               string
	}{
		{"GET", "/api/1/dtabs", "", nil, `200 ["default"]`, ""},
		{"GET", "/api/1/dtabs/", "", nil, `200 ["default"]`, ""},
		{"DELETE", "/api/1/dtabs", "", nil, `200 ["default"]`, ""},
		{"GET", "/api/1/dtabsomething", "", nil, "404", ""},
		{"GET", "/api/2/dtabs", "", nil, "404", ""},
		{"GET", "/", "", nil, "404", ""},
		{"GET", shop, "", nil, "404", ""},
		{"HEAD", shop, "", nil, "404", ""},
		{"DELETE", shop, "", nil, "404", ""},
		{"PATCH", "/api/1/dtabs/default", "", nil, "404", ""},
		{"GET", "/api/1/dtabs/default", "", nil, `200 [{"prefix":"/svc","dst":"/host"},{"prefix":"/host","dst":"/a & 9.00*/b"}]`, "AAAAAAAAAAE="},
		{"GET", "/api/1/dtabs/default", "", []string{"Accept", asDtab}, "200 /svc=>/host;/host=>/a & 9.00*/b", "AAAAAAAAAAE="},
		{"GET", "/api/1/dtabs/default", "", []string{"Accept", "image/png, text/plain;q=0.1, application/json"}, "200 /svc=>/host;/host=>/a & 9.00*/b", "AAAAAAAAAAE="},
		{"HEAD", "/api/1/dtabs/default", "", nil, "200", "AAAAAAAAAAE="},
		// Create.
		{"POST", shop, "/a=>/b", nil, `400 Invalid Content-Type "".`, ""},
		{"POST", shop, "/a=>/b", []string{"Content-Type", "text/html"}, `400 Invalid Content-Type "text/html".`, ""},
		{"POST", shop, "/a=>", []string{"Content-Type", asDtab}, "400 a path, '(', '~', '!' or '$' expected but end of input found at '/a=>[]'", ""},
		{"GET", shop, "", nil, "404", ""},
		{"POST", "/api/1/dtabs/Shop", "/a=>/b", []string{"Content-Type", asDtab}, "400 invalid name: want lower-case letters, digits and '-', at most 63, beginning and ending with a letter or digit", ""},
		{"POST", shop, "# note\n/a => /b ;", []string{"Content-Type", asDtab}, "204", ""},
		{"POST", shop, "/a=>/c", []string{"Content-Type", asDtab}, "409", ""},
		{"GET", "/api/1/dtabs", "", nil, `200 ["default","shopns"]`, ""},
		{"GET", shop, "", nil, `200 [{"prefix":"/a","dst":"/b"}]`, "AAAAAAAAAAE="},
		// The worked example.
		{"PUT", shop, "/a=>/c", []string{"Content-Type", asDtab, "If-Match", "AAAAAAAAAAE="}, "204", ""},
		{"PUT", shop, "/a=>/d", []string{"Content-Type", asDtab, "If-Match", "AAAAAAAAAAE="}, "412", ""},
		{"PUT", shop, "/a=>/d", []string{"Content-Type", asDtab, "If-Match", "nonsense"}, "412", ""},
		{"PUT", shop, "/a=>/d", []string{"Content-Type", asDtab, "If-Match", ""}, "412", ""},
		{"GET", shop, "", []string{"Accept", "text/plain"}, "200 /a=>/c", "AAAAAAAAAAI="},
		// Write.
		{"PUT", shop, "/a", []string{"Content-Type", "text/plain"}, "400 '=>' expected but end of input found at '/a[]'", ""},
		{"PUT", shop, "/a=>/e", []string{"Content-Type", "x"}, `400 Invalid Content-Type "x".`, ""},
		{"PUT", shop, `[{"prefix":"/*/x","dst":"1*/a & 2*/b | ~"}]`, []string{"Content-Type", asJSON + ";charset=UTF-8"}, "204", ""},
		{"GET", shop, "", []string{"Accept", asJSON}, `200 [{"prefix":"/*/x","dst":"/a & 2.00*/b | ~"}]`, "AAAAAAAAAAM="},
		{"PUT", shop, `[null]`, []string{"Content-Type", asJSON}, "400 The dtab contains invalid dentries: [null]", ""},
		{"PUT", shop, `[{"prefix":"a","dst":"/b"}]`, []string{"Content-Type", asJSON}, "400 '/' expected but 'a' found at '[a]'", ""},
		{"PUT", shop, `[{"prefix":"/a","dst":"b"}]`, []string{"Content-Type", asJSON}, "400 a path, '(', '~', '!' or '$' expected but 'b' found at '[b]'", ""},
		{"PUT", shop, `null`, []string{"Content-Type", asJSON}, `400 read dtab: found null; want a list such as [{"prefix":"/svc","dst":"/host"}], or [] for no rules`, ""},
		{"POST", "/api/1/dtabs/null", " null\n", []string{"Content-Type", asJSON}, `400 read dtab: found null; want a list such as [{"prefix":"/svc","dst":"/host"}], or [] for no rules`, ""},
		{"POST", "/api/1/dtabs/null", ``, []string{"Content-Type", asJSON}, `400 read dtab: unexpected end of JSON input`, ""},
		{"POST", "/api/1/dtabs/empty", " [ ]\n", []string{"Content-Type", asJSON}, "204", ""},
		{"GET", "/api/1/dtabs/empty", "", nil, "200 []", "AAAAAAAAAAE="},
		{"PUT", "/api/1/dtabs/empty", "[]", []string{"Content-Type", asJSON}, "204", ""},
		{"PUT", "/api/1/dtabs/empty", "# none", []string{"Content-Type", asDtab, "If-Match", "AAAAAAAAAAI="}, "204", ""},
		{"PUT", "/api/1/dtabs/empty", "[]", []string{"Content-Type", asJSON, "If-Match", "AAAAAAAAAAE="}, "412", ""},
		{"HEAD", "/api/1/dtabs/empty", "", nil, "200", "AAAAAAAAAAM="}, // in memory each write makes a version, as with namerd
		{"DELETE", "/api/1/dtabs/empty", "", nil, "204", ""},
		{"PUT", shop, `{}`, []string{"Content-Type", asJSON}, "400 read dtab: found object at byte 1; want a list such as [{\"prefix\":\"/svc\",\"dst\":\"/host\"}]", ""},
		{"PUT", shop, strings.Repeat(" ", 1<<20+1), []string{"Content-Type", asDtab}, "413 read dtab: the body has more than 1048576 bytes, the most that are read", ""},
		{"PUT", "/api/1/dtabs/fresh", "", []string{"Content-Type", asDtab, "If-Match", "AAAAAAAAAAE="}, "404", ""},
		{"PUT", "/api/1/dtabs/fresh", "", []string{"Content-Type", asDtab}, "204", ""},
		{"GET", "/api/1/dtabs/fresh", "", nil, "200 []", "AAAAAAAAAAE="},
		{"GET", "/api/1/dtabs/fresh", "", []string{"Accept", asDtab}, "200", "AAAAAAAAAAE="},
		// Delete; no version comes back after it.
		{"DELETE", shop, "", []string{"If-Match", "nonsense"}, "204", ""},
		{"DELETE", shop, "", nil, "404", ""},
		{"PUT", shop, "/a=>/c", []string{"Content-Type", asDtab, "If-Match", "AAAAAAAAAAM="}, "404", ""},
		{"POST", shop, "/a=>/f", []string{"Content-Type", asDtab}, "204", ""},
		{"HEAD", shop, "", nil, "200", "AAAAAAAAAAQ="},
	} {
		got, response := call(h, c.method, c.path, c.body, c.header...)
		if got != c.want || response.Header.Get("ETag") != c.etag {
			t.Errorf("%d: %s %s %q %v:\n got %s, ETag %q\nwant %s, ETag %q", i, c.method, c.path, c.body, c.header, got, response.Header.Get("ETag"), c.want, c.etag)
		}
	}
	for accept, want := range map[string]string{
		"": asJSON, "*/*": asJSON, "application/*;q=0.5": asJSON, "text/*": "text/plain", "Application/DTAB": asDtab, "image/png": asJSON,
	} {
		if _, response := call(h, "GET", shop, "", "Accept", accept); response.Header.Get("Content-Type") != want {
			t.Errorf("Accept %q gives %q, want %q", accept, response.Header.Get("Content-Type"), want)
		}
	}
	body, _ := call(h, "GET", "/api/1/dtabs", "")
	_, raw := call(h, "GET", "/api/1/dtabs", "")
	if all, _ := io.ReadAll(raw.Body); !strings.HasSuffix(string(all), "]\n") {
		t.Errorf("%q has no newline", body)
	}
}

func TestAPIWatch(t *testing.T) {
	store := memory(t, map[string]string{"default": "/svc=>/a"})
	server := httptest.NewServer(namer.NewAPI(namer.APIConfig{Store: store, Logger: quiet}))
	defer server.Close()
	watching := func(path string, header ...string) (next func() string, stop func()) {
		r, err := http.NewRequestWithContext(t.Context(), "GET", server.URL+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i < len(header); i += 2 {
			r.Header.Set(header[i], header[i+1])
		}
		response, err := server.Client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		if response.StatusCode != 200 || response.Header.Get("ETag") != "" {
			t.Fatalf("%s: %s %v", path, response.Status, response.Header)
		}
		lines := bufio.NewScanner(response.Body)
		return func() string { lines.Scan(); return lines.Text() }, func() { response.Body.Close() }
	}
	expect := func(got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	names, stop := watching("/api/1/dtabs?watch=true")
	defer stop()
	expect(names(), `["default"]`)
	text, stop2 := watching("/api/1/dtabs/late?watch=1", "Accept", asDtab)
	defer stop2()
	js, stop3 := watching("/api/1/dtabs/default?watch=t")
	defer stop3()
	expect(js(), `[{"prefix":"/svc","dst":"/a"}]`)
	put := func(namespace, dtab string) {
		t.Helper()
		if got, _ := call(namer.NewAPI(namer.APIConfig{Store: store, Logger: quiet}), "PUT", "/api/1/dtabs/"+namespace, dtab, "Content-Type", asDtab); got != "204" {
			t.Fatal(got)
		}
	}
	put("late", "/x => /y")
	expect(names(), `["default","late"]`)
	expect(text(), "/x=>/y")
	put("late", "/x => /y") // says nothing new
	put("late", "/x => /z")
	expect(text(), "/x=>/z")
	put("default", "")
	expect(js(), "[]")
}

func TestMemorySeed(t *testing.T) {
	_, err := namer.NewMemory(map[string]string{"a": "/x", "B": "", "c": "/x=>/y", "d": "/x=>"})
	if err == nil || strings.Count(err.Error(), "read dtab of namespace") != 3 {
		t.Fatalf("the error is %v", err)
	}
	var pe *naming.ParseError
	if !errors.As(err, &pe) {
		t.Error("the parse error is lost")
	}
	if m := memory(t, nil); m.Names().Get() == nil {
		t.Error("an empty store does not know its names")
	}
}

// Watching what does not exist leaves nothing behind.
func TestMemoryWatch(t *testing.T) {
	m := memory(t, nil)
	v, release := m.Watch("x")
	if v.Get() == nil || v.Get().Version != "" {
		t.Fatalf("got %+v", v.Get())
	}
	release()
	release()
	w, release := m.Watch("x")
	defer release()
	if v == w {
		t.Error("the entry is kept")
	}
	var last []*namer.Versioned
	w.Notify(func() { last = append(last, w.Get()) })
	_, create := m.Create(t.Context(), "x", namer.Change{Dtab: dtab(t, "/a=>/b")})
	remove := m.Delete(t.Context(), "x", "")
	_, put := m.Put(t.Context(), "x", namer.Change{Dtab: dtab(t, "/a=>/c")})
	if err := errors.Join(create, remove, put); err != nil {
		t.Fatal(err)
	}
	if len(last) != 3 || last[0].Dtab.String() != "/a=>/b" || last[1].Version != "" || last[2].Dtab.String() != "/a=>/c" {
		t.Fatalf("watched %+v", last)
	}
}

// broken is a store that has not been read, and fails.
type broken struct{ namer.Store }

func (broken) Names() *watch.Value[[]string] { return &watch.Value[[]string]{} }

func TestAPINotReady(t *testing.T) {
	if got, _ := call(namer.NewAPI(namer.APIConfig{Store: broken{}, Logger: quiet}), "GET", "/api/1/dtabs", ""); got != "503 the store is not read yet: try again" {
		t.Error(got)
	}
}
