// Package debian knows the programs of the machine that the test cluster and `make test` use, and the
// Debian packages (Ubuntu has the same) that they come from, and installs what is missing.
//
// It is the only list of them. Go is not in it, which runs this; neither is what `make test` builds
// itself. It imports nothing but the standard library, so that it can run before there is a C compiler
// and before anything else is built:
//
//	CGO_ENABLED=0 go run ./e2e/cluster/cmd/packages
package debian

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// Path is where programs are looked for, and where the cluster's daemons have them from. Users other than root often lack the sbin directories.
const Path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Need is a program that has to be there.
type Need struct {
	Program string // its name, or the whole path of a file that is no program
	Package string // the package that has it
}

// Cluster returns what a running cluster needs. runc is among it because it takes a C compiler and
// libseccomp to build.
func Cluster() []Need {
	return []Need{
		{"iptables", "iptables"},
		{"nft", "nftables"},
		{"ip", "iproute2"},
		{"nsenter", "util-linux"},
		{"mount", "mount"},
		{"ps", "procps"},
		{"runc", "runc"},
	}
}

// Test returns what `make test` needs, the cluster's needs among it.
func Test() []Need {
	return append(Cluster(),
		// The end-to-end tests call the mesh with the clients that its users have.
		Need{"curl", "curl"},
		Need{"python3", "python3"},
		Need{"node", "nodejs"},
		// The race detector is linked by a C compiler, against the C library.
		Need{compiler(os.Getenv("CC")), "gcc"},
		Need{"/usr/include/stdlib.h", "libc6-dev"},
	)
}

// Bench returns what `make bench` needs: the backend, the load generator and the proxies to compare with.
// Envoy is no package of Debian's.
func Bench() []Need {
	return []Need{
		{"nginx", "nginx"},
		{"wrk", "wrk"},
		{"haproxy", "haproxy"},
		{"caddy", "caddy"},
	}
}

// compiler is the C compiler that the go command calls: the first word of CC, by default gcc. It may be
// anywhere in $PATH.
func compiler(cc string) string {
	name := "gcc"
	if words := strings.Fields(cc); len(words) > 0 {
		name = words[0]
	}
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	return name
}

// Missing returns the packages of the needs that has does not know, each once.
func Missing(needs []Need, has func(program string) bool) []string {
	var missing []string
	for _, n := range needs {
		if !has(n.Program) && !slices.Contains(missing, n.Package) {
			missing = append(missing, n.Package)
		}
	}
	return missing
}

// Has tells whether a program is in [Path], or a file where it should be.
func Has(program string) bool {
	if filepath.IsAbs(program) {
		_, err := os.Stat(program)
		return err == nil
	}
	for dir := range strings.SplitSeq(Path, ":") {
		if info, err := os.Stat(filepath.Join(dir, program)); err == nil && info.Mode()&0o111 != 0 {
			return true
		}
	}
	return false
}

// Command is the line that installs packages by hand.
func Command(packages []string) string {
	sudo := ""
	if os.Geteuid() != 0 {
		sudo = "sudo "
	}
	return sudo + "apt-get update && " + sudo + "apt-get install -y --no-install-recommends " + strings.Join(packages, " ")
}

// Ensure returns nil once all needs are met. What is missing it installs by apt-get if install is set
// and this is root on a machine that has it, telling log in one line that it does; otherwise the
// error names the command that would.
func Ensure(ctx context.Context, needs []Need, install bool, log io.Writer) error {
	missing := Missing(needs, Has)
	if len(missing) == 0 {
		return nil
	}
	_, noApt := exec.LookPath("apt-get")
	if !install || noApt != nil || os.Geteuid() != 0 {
		return fmt.Errorf("programs are missing on this machine; install them by: %s", Command(missing))
	}
	packages := strings.Join(missing, " ")
	fmt.Fprintf(log, "installing the packages %s\n", packages)
	for _, args := range [][]string{
		{"update", "-qq"},
		append([]string{"install", "-y", "-qq", "--no-install-recommends"}, missing...),
	} {
		cmd := exec.CommandContext(ctx, "apt-get", args...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("install %s: apt-get %s: %w\n%s", packages, args[0], err, out)
		}
	}
	if still := Missing(needs, Has); len(still) > 0 {
		return fmt.Errorf("apt-get installed %s but what is needed of %s is still not there", packages, strings.Join(still, " "))
	}
	return nil
}
