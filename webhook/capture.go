package webhook

// checkCapture says what is wrong with the annotations about capture: tulle.dev/capture, skip-ports and
// opaque-ports. It is asked in both modes.
func checkCapture(podView, Mode) *Result { return nil }
