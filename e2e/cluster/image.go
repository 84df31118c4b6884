package cluster

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	imagename "github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"golang.org/x/sync/errgroup"
)

// imageUser is whom programs run as in our images, by number so that the kubelet can tell it is not root.
const imageUser = "65532:65532"

// LoadImage makes an image of static binaries and gives it to every node under a name like
// tulle.dev/tulle-proxy:dev. There is nothing else in the image; the entrypoint is the first binary,
// and each is at /<its file name>. Pods need imagePullPolicy IfNotPresent or Never: there is no
// registry. A node that has exactly this image under this name already is left alone.
func (c *Cluster) LoadImage(ctx context.Context, name string, files ...string) error {
	tag, err := imagename.NewTag(name, imagename.StrictValidation)
	if err != nil {
		return fmt.Errorf("load image %q: want a name like tulle.dev/program:dev: %w", name, err)
	}
	image, err := buildImage(files)
	if err != nil {
		return fmt.Errorf("build image %s: %w", name, err)
	}
	digest, err := image.ConfigName() // names the layers' contents, whatever their compression
	if err != nil {
		return fmt.Errorf("build image %s: %w", name, err)
	}
	group, ctx := errgroup.WithContext(ctx)
	for _, n := range nodes {
		group.Go(func() error {
			if err := c.importImage(ctx, n, tag, digest, image); err != nil {
				return fmt.Errorf("load image %s on %s: %w", name, n.Name, err)
			}
			return nil
		})
	}
	return group.Wait()
}

// importImage gives an image to one node, once its containerd is there.
func (c *Cluster) importImage(ctx context.Context, n Node, tag imagename.Tag, digest v1.Hash, image v1.Image) error {
	note := filepath.Join(c.dir.loaded(n.Name), strings.ReplaceAll(tag.Name(), "/", "_"))
	if had, err := os.ReadFile(note); err == nil && string(had) == digest.String() {
		return nil
	}
	pid, err := findMachine(c.dir, n.Name)
	if err != nil {
		return err
	}
	// The node's own /run, seen from the host.
	socket := fmt.Sprintf("/proc/%d/root/run/containerd/containerd.sock", pid)
	err = c.await(ctx, "containerd", func(context.Context) error {
		_, err := os.Stat(socket)
		return err
	})
	if err != nil {
		return err
	}
	if err := c.runImport(ctx, socket, tag, image); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(note), 0o755); err != nil {
		return fmt.Errorf("note the image: %w", err)
	}
	return os.WriteFile(note, []byte(digest.String()), 0o644)
}

// runImport pipes the image into containerd's client, without a file between.
func (c *Cluster) runImport(ctx context.Context, socket string, tag imagename.Tag, image v1.Image) error {
	read, write := io.Pipe()
	var output bytes.Buffer
	cmd := exec.CommandContext(ctx, c.bin.path("ctr"), "--address", socket, "--namespace", "k8s.io", "images", "import", "-")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = read, &output, &output
	written := make(chan error, 1)
	go func() {
		err := tarball.Write(tag, image, write)
		written <- err
		write.CloseWithError(err)
	}()
	err := cmd.Run()
	read.Close() // if the client ended early, the writer must too
	if writeErr := <-written; err == nil && writeErr != nil && !errors.Is(writeErr, io.ErrClosedPipe) {
		err = writeErr
	}
	if err != nil {
		return fmt.Errorf("%w\n%s", err, output.String())
	}
	return nil
}

// buildImage makes an image of static binaries. The same files make the same image.
func buildImage(files []string) (v1.Image, error) {
	if len(files) == 0 {
		return nil, errors.New("name at least one binary")
	}
	contents, err := layerTar(files)
	if err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(
		func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(contents)), nil },
		// It travels over a socket of this machine; compressing it takes longer than sending it.
		tarball.WithCompressionLevel(gzip.NoCompression))
	if err != nil {
		return nil, err
	}
	image, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return nil, err
	}
	config, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", runtime.GOARCH
	config.Config.Entrypoint = []string{"/" + filepath.Base(files[0])}
	config.Config.User = imageUser
	return mutate.ConfigFile(image, config)
}

// layerTar puts files into a tar archive, at the top, without the times and owners they have here.
func layerTar(files []string) ([]byte, error) {
	var out bytes.Buffer
	archive := tar.NewWriter(&out)
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		header := &tar.Header{Name: filepath.Base(file), Mode: 0o755, Size: int64(len(data)), Typeflag: tar.TypeReg}
		if err := archive.WriteHeader(header); err != nil {
			return nil, err
		}
		if _, err := archive.Write(data); err != nil {
			return nil, err
		}
	}
	if err := archive.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}
