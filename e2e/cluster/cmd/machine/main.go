//go:build linux

// Command machine is process 1 of one machine of the test cluster. The cluster package builds and
// starts it; it is of no use by hand.
package main

import (
	"fmt"
	"os"

	"github.com/tulle-mesh/tulle/e2e/cluster/machine"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "machine: want one argument, the file that describes the machine")
		os.Exit(2)
	}
	spec, err := machine.ReadSpec(os.Args[1])
	if err == nil {
		err = machine.Run(spec)
	}
	fmt.Fprintln(os.Stderr, "machine:", err)
	os.Exit(1)
}
