package alyx

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"syscall"
	"time"
)

// The sandbox's init has made descriptor 3 the way out for answers, and descriptor 1 the
// container's stderr: whatever the function prints goes to the logs.
var protocol = struct {
	sync.Mutex
	file *os.File
}{file: os.NewFile(3, "protocol")}

type message map[string]any

// Serve answers requests with h until there are no more; it does not return.
func Serve(h func(*Context) (any, error)) {
	syscall.CloseOnExec(3)
	if err := send(message{"type": "ready"}); err != nil {
		fmt.Fprintln(os.Stderr, "alyx.Serve: not started by the sandbox as a handler:", err)
		os.Exit(1)
	}
	requests := bufio.NewReader(os.Stdin)
	// The first request is charged for the start too.
	charged := 0.0
	for served := 0; ; served++ {
		line, err := requests.ReadBytes('\n')
		if len(line) > 0 {
			if served > 0 {
				wipe()
			}
			answer(h, line, &charged)
		}
		if err == io.EOF {
			os.Exit(0)
		} else if err != nil {
			fmt.Fprintln(os.Stderr, "alyx.Serve:", err)
			os.Exit(1)
		}
	}
}

func answer(h func(*Context) (any, error), line []byte, charged *float64) {
	ctx, err := decode(line)
	var output any
	if err == nil {
		output, err = call(h, ctx)
	}
	used, peak := usage()
	response := message{
		"type":       "response",
		"request_id": ctx.RequestID,
		"usage": message{
			"cpu_ms":            math.Round((used-*charged)*1000) / 1000,
			"peak_memory_bytes": peak,
		},
	}
	*charged = used
	if err == nil {
		response["success"], response["output"] = true, output
		err = send(response)
		if err == nil {
			return
		}
		err = fmt.Errorf("what the handler returned is not JSON: %w", err)
		delete(response, "output")
	}
	response["success"], response["error"] = false, describe(err)
	if send(response) != nil {
		// Not its details then.
		response["error"] = describe(errors.New(err.Error()))
		send(response)
	}
}

func decode(line []byte) (*Context, error) {
	var request struct {
		RequestID string          `json:"request_id"`
		Function  string          `json:"function"`
		Input     json.RawMessage `json:"input"`
		Context   struct {
			Auth          *Auth             `json:"auth"`
			Env           map[string]string `json:"env"`
			AlyxURL       string            `json:"alyx_url"`
			InternalToken string            `json:"internal_token"`
		} `json:"context"`
	}
	err := json.Unmarshal(line, &request)
	ctx := &Context{
		Input:         map[string]any{},
		Auth:          request.Context.Auth,
		Env:           request.Context.Env,
		RequestID:     request.RequestID,
		Function:      request.Function,
		AlyxURL:       request.Context.AlyxURL,
		InternalToken: request.Context.InternalToken,
		input:         request.Input,
	}
	if err == nil && len(request.Input) > 0 {
		err = json.Unmarshal(request.Input, &ctx.Input)
	}
	return ctx, err
}

// call is h(ctx) with a panic turned into an error; its stack goes to the logs.
func call(h func(*Context) (any, error), ctx *Context) (output any, err error) {
	defer func() {
		if reason := recover(); reason != nil {
			fmt.Fprintf(os.Stderr, "panic: %v\n\n%s", reason, debug.Stack())
			output = nil
			if cause, ok := reason.(error); ok {
				err = cause
			} else {
				err = fmt.Errorf("%v", reason)
			}
		}
	}()
	output, err = h(ctx)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	return output, err
}

// describe is the contract's error document.
func describe(err error) message {
	code, text, details := "FUNCTION_ERROR", err.Error(), map[string]any{}
	var own *Error
	if errors.As(err, &own) {
		text = own.Message
		if own.Code != "" {
			code = own.Code
		}
		if own.Details != nil {
			details = own.Details
		}
	}
	return message{"code": code, "message": text, "details": details}
}

// wipe removes what an earlier request left in files: these are all that a function can write to.
func wipe() {
	for _, directory := range []string{"/tmp", "/dev/shm"} {
		entries, _ := os.ReadDir(directory)
		for _, entry := range entries {
			os.RemoveAll(filepath.Join(directory, entry.Name()))
		}
	}
}

// usage is the CPU time in milliseconds of this process and its children, and its peak memory.
func usage() (cpu float64, peak int64) {
	for _, who := range []int{syscall.RUSAGE_SELF, syscall.RUSAGE_CHILDREN} {
		var used syscall.Rusage
		syscall.Getrusage(who, &used)
		cpu += float64(used.Utime.Nano()+used.Stime.Nano()) / 1e6
		if who == syscall.RUSAGE_SELF {
			peak = used.Maxrss * 1024
		}
	}
	return cpu, peak
}

func send(m message) error {
	line, err := json.Marshal(m)
	if err != nil {
		return err
	}
	protocol.Lock()
	defer protocol.Unlock()
	_, err = protocol.file.Write(append(line, '\n'))
	return err
}

// Logger writes to the invocation's logs. Of data, the first value goes with the message.
type Logger struct{}

// Debug logs a message at the level debug.
func (Logger) Debug(text string, data ...any) { log("debug", text, data) }

// Info logs a message at the level info.
func (Logger) Info(text string, data ...any) { log("info", text, data) }

// Warn logs a message at the level warn.
func (Logger) Warn(text string, data ...any) { log("warn", text, data) }

// Error logs a message at the level error.
func (Logger) Error(text string, data ...any) { log("error", text, data) }

func log(level, text string, data []any) {
	entry := message{
		"type":      "log",
		"level":     level,
		"message":   text,
		"data":      nil,
		"timestamp": time.Now().UTC().Format("2006-01-02T15:04:05.000Z"),
	}
	if len(data) > 0 {
		entry["data"] = asObject(data[0])
	}
	send(entry)
}

// asObject is the value as a JSON object, with text in the place of what is not JSON.
func asObject(value any) any {
	encoded, err := json.Marshal(value)
	if err != nil {
		return message{"value": fmt.Sprint(value)}
	}
	if encoded[0] == '{' || value == nil {
		return json.RawMessage(encoded)
	}
	return message{"value": json.RawMessage(encoded)}
}
