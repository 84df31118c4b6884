package namer_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"testing/quick"
	"time"

	"pgregory.net/rapid"

	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/naming/namer"
)

// The requests that namerctl sends, as Go's client of that time writes them, and the answers, byte
// for byte but for the date.
func TestNamerctl(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: namer.NewAPI(namer.APIConfig{Store: memory(t, map[string]string{"default": ""}), Logger: quiet})}
	done := make(chan struct{})
	go func() { server.Serve(l); close(done) }()
	defer func() { server.Close(); <-done }()

	date := regexp.MustCompile(`(?m)^Date: .*\r\n`)
	for _, c := range []struct{ name, request, body, want string }{
		{"list", "GET /api/1/dtabs", "",
			"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 12\r\n\r\n[\"default\"]\n"},
		{"get, missing", "GET /api/1/dtabs/internal\nAccept: application/json", "",
			"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"},
		{"create", "POST /api/1/dtabs/internal\nContent-Type: application/dtab", "# ours\n/svc  => /host ;\n/host => /srv ;\n",
			"HTTP/1.1 204 No Content\r\n\r\n"},
		{"create again", "POST /api/1/dtabs/internal\nContent-Type: application/dtab", "/svc => /host",
			"HTTP/1.1 409 Conflict\r\nContent-Length: 0\r\n\r\n"},
		{"get", "GET /api/1/dtabs/internal\nAccept: application/json", "",
			"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nEtag: AAAAAAAAAAE=\r\nContent-Length: 70\r\n\r\n" +
				`[{"prefix":"/svc","dst":"/host"},{"prefix":"/host","dst":"/srv"}]` + "\n"},
		{"update", "PUT /api/1/dtabs/internal\nContent-Type: application/json\nIf-Match: AAAAAAAAAAE=", `[{"prefix":"/svc","dst":"1 * /tmp/v2 & 9 * /tmp/v1"}]`,
			"HTTP/1.1 204 No Content\r\n\r\n"},
		{"update, stale", "PUT /api/1/dtabs/internal\nContent-Type: application/json\nIf-Match: AAAAAAAAAAE=", `[{"prefix":"/svc","dst":"/x"}]`,
			"HTTP/1.1 412 Precondition Failed\r\nContent-Length: 0\r\n\r\n"},
		{"get weights", "GET /api/1/dtabs/internal\nAccept: application/json", "",
			"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nEtag: AAAAAAAAAAI=\r\nContent-Length: 51\r\n\r\n" +
				`[{"prefix":"/svc","dst":"/tmp/v2 & 9.00*/tmp/v1"}]` + "\n"},
		{"update without a version", "PUT /api/1/dtabs/internal\nContent-Type: application/dtab", "/svc=>/y",
			"HTTP/1.1 204 No Content\r\n\r\n"},
		{"update of what is gone", "PUT /api/1/dtabs/nobody\nContent-Type: application/dtab\nIf-Match: AAAAAAAAAAE=", "/svc=>/y",
			"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"},
		{"update, bad", "PUT /api/1/dtabs/internal\nContent-Type: application/dtab", "/svc=>",
			"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nX-Content-Type-Options: nosniff\r\nContent-Length: 83\r\n\r\n" +
				"a path, '(', '~', '!' or '$' expected but end of input found at '/svc=>[]'"},
		{"list two", "GET /api/1/dtabs", "",
			"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 23\r\n\r\n[\"default\",\"internal\"]\n"},
		{"delete", "DELETE /api/1/dtabs/internal", "", "HTTP/1.1 204 No Content\r\n\r\n"},
		{"delete again", "DELETE /api/1/dtabs/internal", "", "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"},
	} {
		conn, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		line, headers, _ := strings.Cut(c.request, "\n")
		request := line + " HTTP/1.1\r\nHost: namerd.test:4180\r\nUser-Agent: Go-http-client/1.1\r\n"
		for h := range strings.Lines(headers) {
			request += strings.TrimSuffix(h, "\n") + "\r\n"
		}
		if c.body != "" {
			request += fmt.Sprintf("Content-Length: %d\r\n", len(c.body))
		}
		fmt.Fprintf(conn, "%sAccept-Encoding: gzip\r\nConnection: close\r\n\r\n%s", request, c.body)
		raw, err := io.ReadAll(conn)
		conn.Close()
		if err != nil {
			t.Fatal(err)
		}
		got := strings.Replace(date.ReplaceAllString(string(raw), ""), "Connection: close\r\n", "", 1)
		length := regexp.MustCompile(`Content-Length: \d+`)
		// The length is net/http's own; what it says must be what came.
		if r, err := http.ReadResponse(bufio.NewReader(strings.NewReader(string(raw))), nil); err != nil {
			t.Errorf("%s: %v", c.name, err)
		} else if body, err := io.ReadAll(r.Body); err != nil || r.ContentLength > 0 && int64(len(body)) != r.ContentLength {
			t.Errorf("%s: body %q, %v", c.name, body, err)
		}
		if sorted(length.ReplaceAllString(got, "Content-Length: n")) != sorted(length.ReplaceAllString(c.want, "Content-Length: n")) {
			t.Errorf("%s:\n got %q\nwant %q", c.name, got, c.want)
		}
	}
}

// sorted puts the fields of an answer in the order of their names.
func sorted(answer string) string {
	head, body, _ := strings.Cut(answer, "\r\n\r\n")
	lines := strings.Split(head, "\r\n")
	for i := 1; i < len(lines); i++ {
		for j := i; j > 1 && lines[j] < lines[j-1]; j-- {
			lines[j], lines[j-1] = lines[j-1], lines[j]
		}
	}
	return strings.Join(lines, "\r\n") + "\r\n\r\n" + body
}

// Whatever is sent, the API answers with a status that it has, and what it took it gives back.
func FuzzAPI(f *testing.F) {
	for _, body := range []string{"", "/a=>/b", "# x\n/a => 1*/b & 0.5*/c | ~ ;", "/a", `[{"prefix":"/svc","dst":"/k"}]`, `[null]`, `[{}]`, `{}`, `[`, `[{"prefix":"/*/a","dst":"! | $"}]`} {
		f.Add("PUT", "", "application/dtab", body, "AAAAAAAAAAE=")
		f.Add("POST", "", asJSON+";charset=UTF-8", body, `"AAAAAAAAAAE="`)
	}
	for _, q := range []string{"path=/svc/x", "path=/a&dtab=/a=>/b", "path=%2Fa&dtab=%3B", "watch=t", "path=/&caller=x", ";", "path=/a&dtab=%ff", "path=/a&path=b"} {
		for _, route := range []string{"bind/shop", "addr/shop", "resolve/shop", "delegate", "delegate/shop", "bound-names", "dtabs", "dtabs/shop"} {
			f.Add("GET", route+"?"+q, "", "", "")
		}
		f.Add("POST", "plan/shop?"+q, "text/plain", "/svc=>~", "")
		f.Add("POST", "delegate?"+q, asJSON, `{"path":"/a","dtab":"/a=>/b"}`, "")
	}
	h, _, store, _ := newNames(f, "/svc=>/k;/k=>~ | !")
	f.Fuzz(func(t *testing.T, method, uri, media, body, match string) {
		if uri == "" {
			uri = "dtabs/fuzzed"
		}
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond) // what is pending is waited for
		defer cancel()
		r, err := http.NewRequestWithContext(ctx, method, "http://namer/api/1/"+uri, strings.NewReader(body))
		if err != nil || r.URL.Host != "namer" {
			return
		}
		r.Header["Content-Type"] = []string{media}
		if match != "" {
			r.Header["If-Match"] = []string{match}
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		switch w.Code {
		case 200, 204, 400, 404, 409, 412, 413, 415, 500, 503:
		default:
			t.Fatalf("status %d: %s", w.Code, w.Body)
		}
		v, err := store.Get(t.Context(), "fuzzed")
		if err != nil {
			return
		}
		for _, as := range []string{asJSON, asDtab} {
			got, _ := call(h, "GET", "/api/1/dtabs/fuzzed", "", "Accept", as)
			text := strings.TrimPrefix(got, "200 ")
			if text == "200" {
				text = ""
			}
			if put, _ := call(h, "PUT", "/api/1/dtabs/again", text, "Content-Type", as); put != "204" {
				t.Fatalf("what it gives it does not take: %s: %s", text, put)
			}
			if again, err := store.Get(t.Context(), "again"); err != nil || again.Dtab.Exact() != v.Dtab.Exact() {
				t.Fatalf("%s came back as %v, %v", text, again, err)
			}
		}
	})
}

// Who reads a dtab, or what it was once, and writes it back has changed nothing, whatever its weights.
func TestWeightsComeBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		weights := rapid.SliceOfN(rapid.OneOf(
			rapid.Float64Range(0, math.MaxFloat64), rapid.Float64Range(0, 0.02),
			rapid.Map(rapid.IntRange(0, 100_000), func(n int) float64 { return float64(n) / 1000 }),
		), 2, 4).Draw(t, "weights")
		var u naming.Union
		for i, w := range weights {
			u = append(u, naming.Weighted{Weight: w, Tree: naming.Leaf{fmt.Sprint(i)}})
		}
		rules := naming.Dtab{{Prefix: naming.Prefix{"svc"}, Dst: u}}
		store, err := namer.NewMemory(map[string]string{"shop": rules.Exact()})
		if err != nil {
			t.Fatal(err)
		}
		h := namer.NewAPI(namer.APIConfig{Store: store, Logger: quiet})
		for _, as := range []string{asJSON, asDtab} {
			got, _ := call(h, "GET", "/api/1/dtabs/shop", "", "Accept", as)
			if put, _ := call(h, "PUT", "/api/1/dtabs/shop", strings.TrimPrefix(got, "200 "), "Content-Type", as); put != "204" {
				t.Fatalf("%s is answered %s", got, put)
			}
		}
		var past []struct{ Dtab naming.Dtab }
		text, _ := call(h, "GET", "/api/1/dtabs/shop/history", "")
		if err := json.Unmarshal([]byte(strings.TrimPrefix(text, "200 ")), &past); err != nil {
			t.Fatal(err)
		}
		if len(past) != 3 { // in memory each write makes a version
			t.Fatalf("the history is %s", text)
		}
		for _, p := range past {
			if !reflect.DeepEqual(p.Dtab, rules) {
				t.Fatalf("of %s the history is %s", rules.Exact(), text)
			}
		}
	})
}

// Versions are read with or without quotes, and nothing else is taken for one.
func TestVersions(t *testing.T) {
	h := namer.NewAPI(namer.APIConfig{Store: memory(t, map[string]string{"shop": "/a=>/b"}), Logger: quiet})
	put := func(match string) string {
		got, _ := call(h, "PUT", "/api/1/dtabs/shop", "/a=>/b", "Content-Type", asDtab, "If-Match", match)
		return got
	}
	if err := quick.Check(func(match string) bool { return put(match) == "412" }, nil); err != nil {
		t.Error(err)
	}
	for i, match := range []string{`AAAAAAAAAAE=`, `"AAAAAAAAAAI="`, ` "AAAAAAAAAAM=" `} {
		if got := put(match); got != "204" {
			t.Errorf("%d: %s: %s", i, match, got)
		}
	}
	for _, match := range []string{`"`, `""`, `"AAAAAAAAAAQ=`, `*`, "AAAAAAAAAAM="} {
		if got := put(match); got != "412" {
			t.Errorf("%s: %s", match, got)
		}
	}
}
