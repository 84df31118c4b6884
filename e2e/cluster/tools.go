package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
)

// tool is a program of the machine that the cluster's own programs call, or the harness does.
type tool struct{ Name, Package string }

// tools are all that is not built from Go modules, with the Debian packages they come from. runc is
// among them because it needs a C compiler and libseccomp to build.
var tools = []tool{
	{"iptables", "iptables"},
	{"nft", "nftables"},
	{"ip", "iproute2"},
	{"nsenter", "util-linux"},
	{"mount", "mount"},
	{"ps", "procps"},
	{"runc", "runc"},
	{"curl", "curl"}, // which the product's tests call as a user would
}

// toolPath is where tools are looked for. Users other than root often lack the sbin directories.
const toolPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// missingPackages returns the packages of those tools that has does not know.
func missingPackages(has func(name string) bool) []string {
	var missing []string
	for _, t := range tools {
		if !has(t.Name) && !slices.Contains(missing, t.Package) {
			missing = append(missing, t.Package)
		}
	}
	return missing
}

func hasTool(name string) bool {
	for dir := range strings.SplitSeq(toolPath, ":") {
		if info, err := os.Stat(dir + "/" + name); err == nil && info.Mode()&0o111 != 0 {
			return true
		}
	}
	return false
}

// ensureTools returns nil once all tools are there. It installs what is missing if it may and can,
// else the error names the command that would.
func ensureTools(ctx context.Context, install bool, p progress) error {
	missing := missingPackages(hasTool)
	if len(missing) == 0 {
		return nil
	}
	packages := strings.Join(missing, " ")
	_, noApt := exec.LookPath("apt-get")
	if !install || noApt != nil {
		return fmt.Errorf("programs are missing that the cluster needs; install them by: apt-get update && apt-get install -y --no-install-recommends %s", packages)
	}
	p.printf("installing the packages %s", packages)
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
	if still := missingPackages(hasTool); len(still) > 0 {
		return errors.New("apt-get installed " + packages + " but the programs of " + strings.Join(still, " ") + " are still not in " + toolPath)
	}
	return nil
}
