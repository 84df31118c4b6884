package main

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/types"

	"github.com/tulle-mesh/tulle/internal/run"
	"github.com/tulle-mesh/tulle/naming/kubernetes"
)

// configMaps returns the ConfigMaps that proxies may be told the rules of.
func (c *Config) configMaps() ([]types.NamespacedName, error) {
	var all []types.NamespacedName
	var errs []error
	for s := range strings.SplitSeq(c.ConfigMaps, ",") {
		if s = strings.TrimSpace(s); s == "" {
			continue
		}
		m, err := kubernetes.ParseConfigMap(s)
		if err != nil {
			errs = append(errs, err)
		} else if !slices.Contains(all, m) {
			all = append(all, m)
		}
	}
	return all, errors.Join(errs...)
}

// newConfigMaps returns what reads them, and what runs that.
func newConfigMaps(cfg Config, clients clients, log *slog.Logger) (*kubernetes.ConfigMaps, run.Component, error) {
	all, err := cfg.configMaps()
	if err != nil {
		return nil, run.Component{}, err
	}
	c := kubernetes.NewConfigMaps(all, log)
	return c, run.Component{Name: "ConfigMaps", Run: func(ctx context.Context) error { return c.Run(ctx, clients.core) }}, nil
}
