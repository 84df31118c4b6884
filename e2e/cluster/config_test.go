package cluster

import (
	"encoding/json"
	"io/fs"
	"path"
	"regexp"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// TestConfigRenders renders every file of config for every node and parses what can be parsed here.
func TestConfigRenders(t *testing.T) {
	files, err := fs.ReadDir(configFS, "config")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		for _, n := range nodes {
			text, err := newConfigData("/state", builtBinaries("/cache", "key"), n).render(file.Name())
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(text, "<no value>") || strings.Contains(text, "{{") {
				t.Errorf("%s is not fully rendered:\n%s", file.Name(), text)
			}
			switch path.Ext(file.Name()) {
			case ".yaml":
				for i, document := range strings.Split(text, "\n---\n") {
					var object struct{ APIVersion, Kind string }
					if err := yaml.Unmarshal([]byte(document), &object); err != nil || object.Kind == "" || object.APIVersion == "" {
						t.Errorf("%s, document %d: %v, apiVersion %q, kind %q", file.Name(), i, err, object.APIVersion, object.Kind)
					}
				}
			case ".conflist":
				if !json.Valid([]byte(text)) {
					t.Errorf("%s is not JSON:\n%s", file.Name(), text)
				}
			}
		}
	}
}

func TestWorkersDiffer(t *testing.T) {
	bin := builtBinaries("/cache", "key")
	one, err := worker("/state", bin, nodes[0])
	if err != nil {
		t.Fatal(err)
	}
	two, err := worker("/state", bin, nodes[1])
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"/etc/kubernetes/kubelet.yaml", "/etc/kubernetes/kube-proxy.yaml", "/etc/cni/net.d/10-pods.conflist"} {
		if one.Files[file] == "" || one.Files[file] == two.Files[file] {
			t.Errorf("%s is empty or the same on both nodes", file)
		}
	}
	if one.Disk == two.Disk {
		t.Errorf("both nodes have the disk %s", one.Disk)
	}
	for _, d := range append(one.Daemons, controlPlane("/state", bin).Daemons...) {
		if d.Path != "/cache/bin-key/"+d.Name || !strings.HasPrefix(d.Env[0], "PATH=/cache/bin-key:") {
			t.Errorf("daemon %s runs %s with %s, want our own programs first", d.Name, d.Path, d.Env[0])
		}
	}
}

func TestBootID(t *testing.T) {
	form := regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)
	a, b := newBootID(), newBootID()
	if !form.MatchString(a) || a == b {
		t.Errorf("boot ids %s and %s; want two different random UUIDs", a, b)
	}
}
