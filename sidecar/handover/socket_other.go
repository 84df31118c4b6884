//go:build !linux

package handover

import (
	"errors"
	"net"
	"os"
)

var errUnsupported = errors.New("listeners can be handed over on Linux only")

func supported() error                       { return errUnsupported }
func rightsSpace(int) int                    { return 0 }
func makeRights([]*os.File) ([]byte, error)  { return nil, errUnsupported }
func parseRights([]byte) ([]*os.File, error) { return nil, errUnsupported }
func truncated(int) bool                     { return false }
func peerUID(*net.UnixConn) (int, error)     { return 0, errUnsupported }
