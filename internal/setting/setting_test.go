package setting_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"

	"github.com/tulle-mesh/tulle/internal/setting"
)

type config struct {
	Admin  string            `setting:"admin-address" help:"address of the admin server"`
	Life   time.Duration     `setting:"certificate-duration" help:"how long a certificate is good for"`
	Quiet  bool              `setting:"quiet" help:"say less"`
	Share  float64           `setting:"share" help:"share of requests"`
	Count  int               `setting:"count" help:"how many"`
	Dtabs  map[string]string `setting:"dtabs" help:"dtabs by namespace"`
	Inject inject            `setting:"inject"`
}

type inject struct {
	Image string `setting:"proxy-image" help:"image of the proxy"`
	Mode  string `setting:"default-mode" help:"sidecar or host"`
}

func (c *config) Validate() error {
	if c.Inject.Mode != "host" && c.Inject.Mode != "sidecar" {
		return errors.New("inject.default-mode: it must be host or sidecar")
	}
	return nil
}

func defaults() config {
	return config{
		Admin: ":9990", Life: 24 * time.Hour, Count: 3,
		Dtabs: map[string]string{"default": "/a => /b"}, Inject: inject{Mode: "host"},
	}
}

// load runs one program with these arguments and this file, whose path it returns too.
func load(t *testing.T, file string, args ...string) (cfg config, path string, err error) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "tulle.yaml")
	if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg = defaults()
	flags := pflag.NewFlagSet("tulle", pflag.ContinueOnError)
	loader, err := setting.New(&cfg, flags)
	if err != nil {
		t.Fatal(err)
	}
	if err := flags.Parse(append([]string{"--config", path}, args...)); err != nil {
		t.Fatal(err)
	}
	err = loader.Load()
	return cfg, path, err
}

// loaded is load for what must succeed.
func loaded(t *testing.T, file string, args ...string) config {
	t.Helper()
	cfg, _, err := load(t, file, args...)
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

func TestDefaults(t *testing.T) {
	if diff := cmp.Diff(defaults(), loaded(t, "")); diff != "" {
		t.Error(diff)
	}
}

func TestSources(t *testing.T) {
	t.Setenv("TULLE_INJECT_DEFAULT_MODE", "sidecar")
	t.Setenv("TULLE_CERTIFICATE_DURATION", "2h")
	t.Setenv("TULLE_SHARE", "0.25")
	t.Setenv("TULLE_COUNT", "")
	got := loaded(t, `
admin-address: 127.0.0.1:1 # an address
certificate-duration: 1h
quiet: true
count: 7
dtabs:
  default: |
    /svc => /host ;
  web-2: /srv => /caller
inject:
  proxy-image: "proxy:dev"
  default-mode: host
`, "--certificate-duration=3h", "--admin-address=")
	want := config{
		Admin: "", Life: 3 * time.Hour, Quiet: true, Share: 0.25, Count: 7,
		Dtabs:  map[string]string{"default": "/svc => /host ;\n", "web-2": "/srv => /caller"},
		Inject: inject{Image: "proxy:dev", Mode: "sidecar"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestFileFromEnvironment(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.yaml")
	if err := os.WriteFile(path, []byte(`{"count": 9}`), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("TULLE_CONFIG", path)
	cfg := defaults()
	loader, err := setting.New(&cfg, pflag.NewFlagSet("tulle", pflag.ContinueOnError))
	if err != nil {
		t.Fatal(err)
	}
	if err := loader.Load(); err != nil || cfg.Count != 9 {
		t.Errorf("count %d, %v", cfg.Count, err)
	}
}

func TestFileByAnotherName(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.yaml")
	if err := os.WriteFile(path, []byte(`{"config": "routers.yaml"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	var cfg struct {
		Config string `setting:"config" help:"another file"`
	}
	flags := pflag.NewFlagSet("tulle", pflag.ContinueOnError)
	loader, err := setting.NewNamed(&cfg, flags, "settings-file")
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("TULLE_SETTINGS_FILE", path)
	if err := loader.Load(); err != nil || cfg.Config != "routers.yaml" {
		t.Errorf("config %q, %v", cfg.Config, err)
	}
}

func TestRefusals(t *testing.T) {
	for name, c := range map[string]struct {
		file string
		env  map[string]string
		want []string
	}{
		"unknown keys, and what Validate finds": {
			file: "admin-adress: :1\ninject:\n  proxy_image: a\n  default-mode: both\ninject.proxy-image: b\nproxy-image: c\n",
			want: []string{
				"FILE:1: admin-adress is not a setting",
				"FILE:3: inject.proxy_image is not a setting; did you mean inject.proxy-image?",
				"FILE:5: inject.proxy-image is not a setting; did you mean inject.proxy-image?",
				"FILE:6: proxy-image is not a setting; did you mean inject.proxy-image?",
				"inject.default-mode: it must be host or sidecar",
			},
		},
		"values, all at once": {
			file: "certificate-duration: 24\nquiet: perhaps\ncount: 1.5\nshare:\n  a: b\nadmin-address:\n",
			env:  map[string]string{"TULLE_COUNT": "many"},
			want: []string{
				`FILE:1: certificate-duration: "24" is not a duration such as 90s or 24h`,
				`FILE:2: quiet: "perhaps" is not true or false`,
				`FILE:3: count: "1.5" is not a whole number`,
				`FILE:5: share: it must be a single value`,
				`FILE:6: admin-address: it has no value; leave it out for the default`,
				`TULLE_COUNT: "many" is not a whole number`,
			},
		},
		"map keys that would be changed": {
			file: "dtabs:\n  Web: /a => /b\n  a.b: /a => /b\n  ok: [1]\n",
			want: []string{
				`FILE:2: dtabs: the key "Web" must be lower-case letters, digits and inner hyphens`,
				`FILE:3: dtabs: the key "a.b" must be lower-case letters, digits and inner hyphens`,
				`FILE:4: dtabs.ok: it must be a single value`,
			},
		},
		"keys twice": {
			file: "count: 1\ncount: 2\n",
			want: []string{"FILE:2: count is set twice, first in line 1"},
		},
		"keys that are no text": {
			file: "quiet: &q true\n? [count]\n: 1\n? *q\n: 2\n",
			want: []string{"FILE:2: a key must be plain text", "FILE:4: a key must be plain text"},
		},
		"two documents": {
			file: "count: 1\n---\ncount: 2\n",
			want: []string{"FILE:2: a second document begins, there must be one"},
		},
		"no mapping": {
			file: "- a\n",
			want: []string{"FILE:1: it must hold keys and values"},
		},
		"section that is none": {
			file: "inject: yes\ndtabs: all\n",
			want: []string{"FILE:1: inject: it must hold keys and values", "FILE:2: dtabs: it must hold keys and values"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			for k, v := range c.env {
				t.Setenv(k, v)
			}
			_, path, err := load(t, c.file)
			if err == nil {
				t.Fatal("no error")
			}
			got := strings.Split(strings.ReplaceAll(err.Error(), path, "FILE"), "\n")
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestFileThatIsNoYAML(t *testing.T) {
	_, path, err := load(t, "a: [")
	if err == nil || !strings.HasPrefix(err.Error(), path+": ") {
		t.Errorf("got %v", err)
	}
}

func TestMissingFile(t *testing.T) {
	_, _, err := load(t, "", "--config", "/no/such/file")
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

func TestSettings(t *testing.T) {
	cfg := defaults()
	loader, err := setting.New(&cfg, pflag.NewFlagSet("tulle", pflag.ContinueOnError))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range loader.Settings() {
		got = append(got, s.Key+" "+s.Env+" "+s.Default)
	}
	want := []string{
		"admin-address TULLE_ADMIN_ADDRESS :9990",
		"certificate-duration TULLE_CERTIFICATE_DURATION 24h0m0s",
		"quiet TULLE_QUIET false",
		"share TULLE_SHARE 0",
		"count TULLE_COUNT 3",
		"dtabs  ",
		"inject.proxy-image TULLE_INJECT_PROXY_IMAGE ",
		"inject.default-mode TULLE_INJECT_DEFAULT_MODE host",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestStructsThatAreNoSettings(t *testing.T) {
	for name, target := range map[string]any{
		"no pointer": config{},
		"no tag":     &struct{ A string }{},
		"odd type": &struct {
			A []byte `setting:"a"`
		}{},
	} {
		if _, err := setting.New(target, pflag.NewFlagSet("tulle", pflag.ContinueOnError)); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func FuzzFile(f *testing.F) {
	f.Add("admin-address: a\ninject: {proxy-image: b}\ndtabs: {c: d}\n")
	f.Add("a: &a [*a]\ninject: &i {inject: *i}\n? {b: c}\n: d\n---\n")
	f.Fuzz(func(t *testing.T, file string) {
		cfg, _, err := load(t, file)
		if err != nil {
			return
		}
		// What loads is valid, and no key of a map was bent on the way.
		if err := cfg.Validate(); err != nil {
			t.Error(err)
		}
		for key := range cfg.Dtabs {
			if key != strings.ToLower(key) || strings.Contains(key, ".") {
				t.Errorf("key %q", key)
			}
		}
	})
}

// A part of a file: what is not of it at the top is passed over, what is wrong in it is not, and nothing else is asked.
func TestDecode(t *testing.T) {
	type part struct {
		Life   time.Duration `setting:"certificate-duration" help:"how long a certificate is good for"`
		Inject inject        `setting:"inject"`
	}
	t.Setenv("TULLE_INJECT_PROXY_IMAGE", "environment")
	got := part{Life: time.Hour, Inject: inject{Image: "default"}}
	if err := setting.Decode(&got, "x.yaml", []byte("other: [1]\ninject: {default-mode: host}\n")); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(part{time.Hour, inject{"default", "host"}}, got); diff != "" {
		t.Error(diff)
	}
	err := setting.Decode(&got, "x.yaml", []byte("other: 1\ninject:\n  image: a\ncertificate-duration: long\n"))
	if err == nil || !strings.Contains(err.Error(), "x.yaml:3: inject.image is not a setting") || !strings.Contains(err.Error(), "x.yaml:4: certificate-duration: ") || strings.Contains(err.Error(), "other") {
		t.Errorf("got %v", err)
	}
}
