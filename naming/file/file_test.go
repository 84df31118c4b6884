package file_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/tulle-mesh/tulle/internal/logtest"
	"github.com/tulle-mesh/tulle/internal/watch"
	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/naming/file"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// soon is when a change is surely known.
const soon = time.Second

// directory is a root and what writes into it.
type directory struct {
	*testing.T
	root     string
	versions int
}

func (d *directory) must(err error) {
	d.Helper()
	if err != nil {
		d.Fatal(err)
	}
}

// write changes a file in place. Real time hardly passes in a test, so that the
// file's time is set.
func (d *directory) write(name, content string) {
	d.Helper()
	path := filepath.Join(d.root, name)
	d.must(os.MkdirAll(filepath.Dir(path), 0o700))
	d.must(os.WriteFile(path, []byte(content), 0o600))
	d.versions++
	stamp := time.Unix(int64(d.versions), 0)
	d.must(os.Chtimes(path, stamp, stamp))
}

// dns follows names that the test sets.
type dns struct {
	mu     sync.Mutex
	values map[string]*watch.Value[naming.Replicas]
	users  map[string]int
}

func (d *dns) Replicas(id string) (*watch.Value[naming.Replicas], func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.values[id] == nil {
		d.values[id] = watch.New(naming.Replicas{})
	}
	d.users[id]++
	return d.values[id], sync.OnceFunc(func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.users[id]--
	})
}

// of returns the value of a name, and how many follow it.
func (d *dns) of(id string) (*watch.Value[naming.Replicas], int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.values[id], d.users[id]
}

func text(r naming.Replicas) string {
	s := r.State.String()
	for _, e := range r.Endpoints {
		s += fmt.Sprintf(" %s*%v", e.Address, e.Weight)
	}
	return s
}

// run runs a namer of an empty directory for as long as test runs.
func run(t *testing.T, log *logtest.Buffer, test func(d *directory, n *file.Namer, hosts *dns)) {
	synctest.Test(t, func(t *testing.T) {
		hosts := &dns{values: map[string]*watch.Value[naming.Replicas]{}, users: map[string]int{}}
		d := &directory{T: t, root: t.TempDir()}
		n := file.New(file.Config{Root: d.root, Inet: hosts.Replicas, Logger: slog.New(slog.NewTextHandler(log, nil))})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- n.Run(ctx) }()
		test(d, n, hosts)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		hosts.mu.Lock()
		defer hosts.mu.Unlock()
		for id, n := range hosts.users {
			if n != 0 {
				t.Errorf("%s is still followed by %d", id, n)
			}
		}
	})
}

func TestFollows(t *testing.T) {
	var log logtest.Buffer
	run(t, &log, func(d *directory, n *file.Namer, _ *dns) {
		value, release := n.Replicas("/#/io.l5d.fs/web")
		defer release()
		expect := func(want string) {
			t.Helper()
			if got := text(value.Get()); got != want {
				t.Errorf("got %s, want %s", got, want)
			}
		}
		synctest.Wait()
		expect("neg")
		d.write("web", "# the first\n10.0.0.2 80 * 0.5 # half\n\n\t10.0.0.1   80\n::1 443\n")
		time.Sleep(soon)
		expect("bound 10.0.0.1:80*1 10.0.0.2:80*0.5 [::1]:443*1")
		d.write("web", "")
		time.Sleep(soon)
		expect("bound")
		d.write("web", "10.0.0.3 80\n")
		time.Sleep(soon)
		expect("bound 10.0.0.3:80*1")
		if got := log.Take(); got != "" {
			t.Errorf("it logged %s", got)
		}
		// What is wrong is said once, and what was known stays.
		d.write("web", "10.0.0.4 80\n10.0.0.5\n10.0.0.6 0\n")
		time.Sleep(10 * soon)
		expect("bound 10.0.0.3:80*1")
		if got := log.Take(); strings.Count(got, "\n") != 1 || !strings.Contains(got, "web:2: ") || !strings.Contains(got, "web:3: ") {
			t.Errorf("it logged %s", got)
		}
		d.must(os.Remove(filepath.Join(d.root, "web")))
		time.Sleep(soon)
		expect("neg")
		d.must(os.Mkdir(filepath.Join(d.root, "web"), 0o700))
		time.Sleep(soon)
		expect("neg")
	})
}

// A file that is being written is not taken before it keeps still.
func TestWaitsForWriters(t *testing.T) {
	var log logtest.Buffer
	run(t, &log, func(d *directory, n *file.Namer, _ *dns) {
		d.write("web", "10.0.0.1 80\n")
		value, release := n.Replicas("/#/io.l5d.fs/web")
		defer release()
		synctest.Wait()
		before := text(value.Get())
		for i := range 30 {
			d.write("web", strings.Repeat("10.0.0.9 8", i))
			time.Sleep(200 * time.Millisecond)
			if got := text(value.Get()); got != before {
				t.Fatalf("it read half of a file: %s", got)
			}
		}
		d.write("web", "10.0.0.9 80")
		time.Sleep(soon)
		if got, logged := text(value.Get()), log.Take(); got != "bound 10.0.0.9:80*1" || logged != "" {
			t.Errorf("got %s, and it logged %q", got, logged)
		}
	})
}

func TestFirstLook(t *testing.T) {
	var log logtest.Buffer
	run(t, &log, func(d *directory, n *file.Namer, _ *dns) {
		d.write("bad", "10.0.0.1:80\n")
		d.write("large", strings.Repeat("#", 500<<10+1))
		d.write("a/b", "10.0.0.1 80\n")
		d.write(".hidden", "10.0.0.1 80\n")
		d.must(os.Symlink("bad", filepath.Join(d.root, "ok")))
		d.must(os.Symlink("loop", filepath.Join(d.root, "loop")))
		d.must(os.Symlink("/dev/null", filepath.Join(d.root, "device")))
		for id, want := range map[string]string{
			"/#/io.l5d.fs/bad":            "failed",
			"/#/io.l5d.fs/large":          "failed",
			"/#/io.l5d.fs/ok":             "failed",
			"/#/io.l5d.fs/loop":           "failed",
			"/#/io.l5d.fs/device":         "failed",
			"/#/io.l5d.fs/a":              "neg",
			"/#/io.l5d.fs/a/b":            "bound 10.0.0.1:80*1",
			"/#/io.l5d.fs/a/b/c":          "neg",
			"/#/io.l5d.fs/.hidden":        "neg",
			"/#/io.l5d.fs/a/../a/b":       "neg",
			"/#/io.l5d.fs/../x":           "neg",
			`/#/io.l5d.fs/\x61\x2f\x62`:   "neg", // one element, a/b
			"/#/io.l5d.fs":                "neg",
			"/#/io.l5d.k8s/a/b/c":         "neg",
			"/#/io.l5d.fs/" + longElement: "neg",
		} {
			value, release := n.Replicas(id)
			synctest.Wait()
			if got := text(value.Get()); got != want {
				t.Errorf("%s: %s, want %s", id, got, want)
			}
			release()
		}
	})
	if got := log.Take(); !strings.Contains(got, "10.0.0.1:80") {
		t.Errorf("it logged %s", got)
	}
}

var longElement = strings.Repeat("a", 4000)

func TestHostNames(t *testing.T) {
	var log logtest.Buffer
	run(t, &log, func(d *directory, n *file.Namer, hosts *dns) {
		d.write("web", "a.test 80 * 2\nb.test 81\n")
		value, release := n.Replicas("/#/io.l5d.fs/web")
		defer release()
		expect := func(want string) {
			t.Helper()
			synctest.Wait()
			if got := text(value.Get()); got != want {
				t.Errorf("got %s, want %s", got, want)
			}
		}
		expect("pending")
		a, _ := hosts.of("/$/inet/a.test/80")
		b, _ := hosts.of("/$/inet/b.test/81")
		a.Set(naming.Of(naming.Endpoint{Address: "10.0.0.1:80", Weight: 1}, naming.Endpoint{Address: "10.0.0.2:80", Weight: 1}))
		expect("bound 10.0.0.1:80*2 10.0.0.2:80*2")
		b.Set(naming.Of(naming.Endpoint{Address: "10.0.0.3:81", Weight: 1}))
		expect("bound 10.0.0.1:80*2 10.0.0.2:80*2 10.0.0.3:81*1")
		d.write("web", "10.0.0.9 80\nb.test 81 * 3\n")
		time.Sleep(soon)
		expect("bound 10.0.0.3:81*3 10.0.0.9:80*1")
		_, followA := hosts.of("/$/inet/a.test/80")
		_, followB := hosts.of("/$/inet/b.test/81")
		if followA != 0 || followB != 1 {
			t.Errorf("a is followed %d times, b %d times", followA, followB)
		}
		a.Set(naming.Of())
		b.Set(naming.Of())
		expect("bound 10.0.0.9:80*1")
	})
}

// Followers share what they follow, and the last to leave ends it.
func TestRelease(t *testing.T) {
	var log logtest.Buffer
	run(t, &log, func(d *directory, n *file.Namer, hosts *dns) {
		d.write("web", "a.test 80\n")
		first, release1 := n.Replicas("/#/io.l5d.fs/web")
		second, release2 := n.Replicas("/#/io.l5d.fs/web")
		expect := func(want int) {
			t.Helper()
			synctest.Wait()
			if _, users := hosts.of("/$/inet/a.test/80"); users != want {
				t.Errorf("%d follow, want %d", users, want)
			}
		}
		expect(1)
		if first != second {
			t.Error("two values of one file")
		}
		release1()
		release1()
		expect(1)
		release2()
		expect(0)
	})
}
