package main

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"

	"github.com/tulle-mesh/tulle/internal/setting"
)

// load reads a settings file over the defaults.
func load(t *testing.T, file string) (Config, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "controller.yaml")
	if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := DefaultConfig()
	flags := pflag.NewFlagSet("tulle-controller", pflag.ContinueOnError)
	settings, err := setting.New(&cfg, flags)
	if err != nil {
		t.Fatal(err)
	}
	if err := flags.Parse([]string{"--config", path}); err != nil {
		t.Fatal(err)
	}
	err = settings.Load()
	return cfg, err
}

func TestDefaultsAreValid(t *testing.T) {
	cfg, err := load(t, "")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(DefaultConfig(), cfg); diff != "" {
		t.Error(diff)
	}
	if url := cfg.injector().Config("").ControllerURL; url != "https://tulle-controller.tulle.svc:4181" {
		t.Errorf("controller URL is %s", url)
	}
}

func TestWrongSettingsAreSaidAtOnce(t *testing.T) {
	_, err := load(t, `
webhook-address: "8443"
pages-address: "9991"
ca-file: ""
trust-domain: Not/One
certificate-duration: 4m
dtab-store: etcd
dtab-dir: /var/lib/tulle
namer-access: all
config-maps: shop/rules, rules
dtabs:
  web: /svc = /host
inject:
  default-mode: ambient
  proxy-memory-limit: much
log-level: loud
proxy-image: x
`)
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{
		`webhook-address: "8443" is not host:port or :port`,
		`pages-address: "9991" is not host:port or :port`,
		"ca-file: it must not be empty",
		`trust-domain: "Not/One" is not a trust domain`,
		"certificate-duration: it is 4m0s, it must be 5m0s at least",
		"dtabs.web: ",
		`dtab-store: it is "etcd", allowed: kubernetes, file, memory`,
		"dtab-dir: it goes with dtab-store: file",
		`namer-access: it is "all", allowed: rbac, open`,
		`config-maps: "rules" names no ConfigMap: it must be <namespace>/<name>`,
		`default mode is "ambient"`,
		`memory limit "much" is not a quantity`,
		`log-level: it is "loud", allowed: debug, info, warn, error`,
		"proxy-image is not a setting; did you mean inject.proxy-image?",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing in:\n%v", want, err)
		}
	}
}

func TestCommandRefusesArguments(t *testing.T) {
	cmd, err := command()
	if err != nil {
		t.Fatal(err)
	}
	cmd.SetOut(io.Discard)
	cmd.SetErr(io.Discard)
	for _, args := range [][]string{{"extra"}, {"--no-such-flag"}, {"--kubeconfig", "/no/such/file"}} {
		cmd.SetArgs(args)
		if err := cmd.ExecuteContext(t.Context()); err == nil {
			t.Errorf("%q: no error", args)
		}
	}
}
