package accesslog

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var at = time.Date(2026, 11, 3, 7, 6, 17, 0, time.FixedZone("", 2*3600))

func request() *Request {
	return &Request{Host: []byte("cart"), Method: []byte("GET"), Target: []byte("/a?b"), Remote: "192.0.2.7", Minor: 1}
}

func line(r *Request) *Line {
	var l Line
	l.Begin(r)
	return &l
}

func TestLine(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(*Request)
		status int
		bytes  int64
		want   string
	}{
		{"plain", func(*Request) {}, 200, 512,
			`cart 192.0.2.7 - - [03/11/2026:07:06:17 +0200] "GET /a?b HTTP/1.1" 200 512 "-" "-"`},
		{"all", func(r *Request) {
			r.Host, r.Referer, r.UserAgent, r.Minor = []byte("Cart:8080"), []byte("http://x/ y"), []byte("curl/8.9 (a; b)"), 0
		}, 404, 0, `Cart:8080 192.0.2.7 - - [03/11/2026:07:06:17 +0200] "GET /a?b HTTP/1.0" 404 - "http://x/ y" "curl/8.9 (a; b)"`},
		{"nothing", func(r *Request) { *r = Request{Minor: 1} }, 502, -1,
			`- - - - [03/11/2026:07:06:17 +0200] "- - HTTP/1.1" 502 - "-" "-"`},
		{"one that lies", func(r *Request) {
			r.Host, r.UserAgent = []byte("a b\"\n"), []byte("\" 200 1\r\nforged - - \\ \x1b[31m \xc3\xa9")
		}, 200, 1, `a\x20b\"\x0a 192.0.2.7 - - [03/11/2026:07:06:17 +0200] "GET /a?b HTTP/1.1" 200 1 "-" "\" 200 1\x0d\x0aforged - - \\ \x1b[31m \xc3\xa9"`},
		{"a long one", func(r *Request) { r.Target = bytes.Repeat([]byte("x"), 1e6) }, 200, 1,
			`cart 192.0.2.7 - - [03/11/2026:07:06:17 +0200] "GET ` + strings.Repeat("x", maxField) + ` HTTP/1.1" 200 1 "-" "-"`},
	} {
		r := request()
		test.change(r)
		got := line(r).appendTo(nil, []byte("[03/11/2026:07:06:17 +0200]"), test.status, test.bytes)
		if string(got) != test.want+"\n" {
			t.Errorf("%s:\n%s, want\n%s", test.name, got, test.want)
		}
	}
	l := line(request())
	if l.Reset(); l.Begun() {
		t.Error("a reset line has begun")
	}
}

// logging runs a Log on a file until the test's end, or until stop.
func logging(t *testing.T, path func() string, w *bytes.Buffer) (l *Log, stop func()) {
	l = New(Config{Path: path, Logger: slog.New(slog.NewTextHandler(w, nil))})
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = l.Run(ctx) })
	stop = sync.OnceFunc(func() { cancel(); wg.Wait() })
	t.Cleanup(stop)
	return l, stop
}

func lines(t *testing.T, path string) int {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Count(content, []byte("\n"))
}

func TestFile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "access.log")
		if err := os.WriteFile(path, []byte("from before\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		var log bytes.Buffer
		l, stop := logging(t, func() string { return path }, &log)
		settle := func() { time.Sleep(writeEvery); synctest.Wait() }
		l.Append(line(request()), at, 200, 1)
		l.Append(line(request()), at.Add(time.Second), 200, 1)
		synctest.Wait()
		if n := lines(t, path); n != 1 {
			t.Errorf("after no time there are %d lines", n)
		}
		if settle(); lines(t, path) != 3 {
			t.Errorf("there are %d lines, want 3", lines(t, path))
		}
		// As logrotate does.
		if err := os.Rename(path, path+".1"); err != nil {
			t.Fatal(err)
		}
		l.Append(line(request()), at, 200, 1)
		if settle(); lines(t, path) != 1 || lines(t, path+".1") != 3 {
			t.Errorf("after a rename: %d and %d lines", lines(t, path), lines(t, path+".1"))
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		l.Append(line(request()), at, 200, 1)
		if settle(); lines(t, path) != 1 {
			t.Errorf("after it was removed: %d lines", lines(t, path))
		}
		if err := os.Truncate(path, 0); err != nil { // logrotate's copytruncate
			t.Fatal(err)
		}
		l.Append(line(request()), at, 200, 1)
		if settle(); lines(t, path) != 1 {
			t.Errorf("after it was cut: %d lines", lines(t, path))
		}
		l.Reopen()
		l.Append(line(request()), at, 200, 1)
		stop()
		if lines(t, path) != 2 {
			t.Errorf("what waits at the end is not written: %d lines", lines(t, path))
		}
		if l.Dropped() != 0 || log.Len() != 0 {
			t.Errorf("%d dropped, and %s", l.Dropped(), &log)
		}
	})
}

func TestSwitch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		var path atomic.Value
		path.Store(dir + "/a")
		var log bytes.Buffer
		l, stop := logging(t, func() string { return path.Load().(string) }, &log)
		settle := func() { time.Sleep(2 * writeEvery); synctest.Wait() }
		l.Append(line(request()), at, 200, 1)
		settle()
		path.Store(dir + "/b")
		l.Append(line(request()), at, 200, 1)
		settle()
		l.Append(line(request()), at, 200, 1)
		path.Store("")
		l.Reopen()
		settle()
		if a, b := lines(t, dir+"/a"), lines(t, dir+"/b"); a != 1 || b != 2 {
			t.Errorf("%d and %d lines, want 1 and 2", a, b)
		}
		if l.file != nil || l.spare != nil {
			t.Error("a log that is off keeps its file or its memory")
		}
		// A directory that is not there, and then is.
		path.Store(dir + "/c/log")
		for range 3 {
			l.Append(line(request()), at, 200, 1)
			settle()
		}
		if err := os.Mkdir(dir+"/c", 0o700); err != nil {
			t.Fatal(err)
		}
		l.Append(line(request()), at, 200, 1)
		stop()
		if lines(t, dir+"/c/log") != 1 || l.Dropped() != 3 {
			t.Errorf("%d lines, %d dropped", lines(t, dir+"/c/log"), l.Dropped())
		}
		if strings.Count(log.String(), "\n") != 2 || !strings.Contains(log.String(), "no such file") || !strings.Contains(log.String(), "dropped=3") {
			t.Errorf("logged:\n%s", &log)
		}
	})
}

// A file that takes nothing costs lines, never time.
func TestNothingWaits(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	reader, err := os.OpenFile(path, os.O_RDWR, 0) // which reads nothing
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	l, stop := logging(t, func() string { return path }, &log)
	one := line(request())
	n := 0
	for ; l.Dropped() == 0; n++ {
		l.Append(one, at, 200, 1)
		if n > 1e5 {
			t.Fatal("nothing is dropped")
		}
	}
	if most := 4*maxBuffer/len(one.buf) + 1; n > most {
		t.Errorf("%d lines were kept, at most %d fit", n, most)
	}
	_ = reader.Close()
	_ = os.Remove(path)
	stop()
}

func TestConcurrent(t *testing.T) {
	path := filepath.Join(t.TempDir(), "access.log")
	l, stop := logging(t, func() string { return path }, new(bytes.Buffer))
	var wg sync.WaitGroup
	const goroutines, each = 8, 500
	for range goroutines {
		wg.Go(func() {
			for i := range each {
				l.Append(line(request()), at, 200, int64(i))
				if i%100 == 0 {
					l.Reopen()
				}
			}
		})
	}
	wg.Wait()
	stop()
	if got := uint64(lines(t, path)) + l.Dropped(); got != goroutines*each {
		t.Errorf("%d lines are written or counted, want %d", got, goroutines*each)
	}
}

func TestAllocations(t *testing.T) {
	l, r := New(Config{Path: func() string { return "" }}), request()
	var one Line
	now := time.Now()
	if n := testing.AllocsPerRun(1000, func() {
		one.Begin(r)
		l.Append(&one, now, 200, 512)
		if len(l.buf) > maxBuffer/4 {
			l.write()
			l.spare = make([]byte, 0, maxBuffer) // kept, if there were a file
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

var form = regexp.MustCompile(`^[!-~]+ [0-9.:a-f-]+ - - \[\d\d/\d\d/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}\] "[ -~]+ HTTP/1\.[01]" \d+ (\d+|-) "([^"\\]|\\["\\]|\\x[0-9a-f]{2})+" "([^"\\]|\\["\\]|\\x[0-9a-f]{2})+"\n$`)

// Whatever a request says is one line, of the form that readers expect.
func FuzzLine(f *testing.F) {
	f.Add("cart", "GET", "/", "", "curl", 200, int64(5))
	f.Add("\n", "\"", "\\", "\x00", "\xff", 999, int64(-1))
	f.Fuzz(func(t *testing.T, host, method, target, referer, agent string, status int, size int64) {
		r := &Request{Host: []byte(host), Method: []byte(method), Target: []byte(target), Referer: []byte(referer), UserAgent: []byte(agent)}
		got := line(r).appendTo(nil, []byte("[03/11/2026:07:06:17 +0200]"), max(status, 0), size)
		if !form.Match(got) {
			t.Fatalf("%q", got)
		}
	})
}

func BenchmarkLine(b *testing.B) {
	l := New(Config{Path: func() string { return "" }})
	r := request()
	r.UserAgent = []byte("Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36")
	var one Line
	now := time.Now()
	b.ReportAllocs()
	for b.Loop() {
		one.Begin(r)
		l.Append(&one, now, 200, 512)
		l.buf = l.buf[:0]
	}
}

func Example() {
	l := New(Config{Path: func() string { return stdout }})
	var one Line
	one.Begin(request())
	l.Append(&one, at, 200, 512)
	l.write()
	fmt.Println(l.Dropped())
	// Output:
	// cart 192.0.2.7 - - [03/11/2026:07:06:17 +0200] "GET /a?b HTTP/1.1" 200 512 "-" "-"
	// 0
}
