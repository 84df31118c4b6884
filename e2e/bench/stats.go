//go:build linux

package main

import (
	"math"
	"slices"
	"strconv"
)

// median is the middle of the values, or the mean of the two in the middle. There must be one.
func median(values []float64) float64 {
	s := slices.Sorted(slices.Values(values))
	n := len(s)
	if n%2 == 1 {
		return s[n/2]
	}
	return (s[n/2-1] + s[n/2]) / 2
}

// quotients divides round by round.
func quotients(ours, theirs []float64) []float64 {
	q := make([]float64, len(ours))
	for i := range q {
		q[i] = ours[i] / theirs[i]
	}
	return q
}

// round3 keeps three digits behind the point: more are noise.
func round3(v float64) float64 { return math.Round(v*1000) / 1000 }

// digits shows about three digits of a number.
func digits(v float64) string {
	decimals := 2
	switch {
	case math.Abs(v) >= 100:
		decimals = 0
	case math.Abs(v) >= 10:
		decimals = 1
	}
	return strconv.FormatFloat(v, 'f', decimals, 64)
}
