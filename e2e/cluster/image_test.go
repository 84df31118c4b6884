package cluster

import (
	"archive/tar"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestBuildImage(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string) string {
		t.Helper()
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		return file
	}
	proxy, helper := write("tulle-proxy", "one"), write("helper", "two")
	image, err := buildImage([]string{proxy, helper})
	if err != nil {
		t.Fatal(err)
	}
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if len(config.Config.Entrypoint) != 1 || config.Config.Entrypoint[0] != "/tulle-proxy" || config.Config.User != "65532:65532" || config.OS != "linux" {
		t.Errorf("got entrypoint %v, user %q, OS %q", config.Config.Entrypoint, config.Config.User, config.OS)
	}
	layers, err := image.Layers()
	if err != nil || len(layers) != 1 {
		t.Fatalf("got %d layers (%v), want one", len(layers), err)
	}
	contents, err := layers[0].Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	archive := tar.NewReader(contents)
	for _, want := range []string{"tulle-proxy", "helper"} {
		header, err := archive.Next()
		if err != nil || header.Name != want || header.Mode != 0o755 {
			t.Errorf("got %v (%v), want the executable %s", header, err, want)
		}
	}
	if _, err := archive.Next(); err != io.EOF {
		t.Errorf("after the last file: %v, want the end", err)
	}

	before, _ := image.ConfigName()
	if err := os.Chtimes(proxy, time.Time{}, time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	again, err := buildImage([]string{proxy, helper})
	if err != nil {
		t.Fatal(err)
	}
	if name, _ := again.ConfigName(); name != before {
		t.Error("another time of the file makes another image")
	}
	write("tulle-proxy", "new")
	changed, err := buildImage([]string{proxy, helper})
	if err != nil {
		t.Fatal(err)
	}
	if name, _ := changed.ConfigName(); name == before {
		t.Error("another content of the file makes the same image")
	}
	if _, err := buildImage(nil); err == nil {
		t.Error("an image without a binary is made")
	}
}
