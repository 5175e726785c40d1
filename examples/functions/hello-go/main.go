// A stdio function: the request comes on stdin, the response goes to stdout.
// It is compiled once for each version of its source, in a container too.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"runtime"
)

type request struct {
	RequestID string `json:"request_id"`
	Function  string `json:"function"`
	Input     struct {
		Name string `json:"name"`
	} `json:"input"`
}

type response struct {
	RequestID string         `json:"request_id"`
	Success   bool           `json:"success"`
	Output    map[string]any `json:"output,omitempty"`
	Error     *failure       `json:"error,omitempty"`
}

type failure struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

func main() {
	var req request
	if err := json.NewDecoder(os.Stdin).Decode(&req); err != nil {
		respond(response{RequestID: "unknown", Error: &failure{"EXECUTION_ERROR", err.Error()}})
		os.Exit(1)
	}
	name := req.Input.Name
	if name == "" {
		name = "World"
	}
	respond(response{RequestID: req.RequestID, Success: true, Output: map[string]any{
		"message": fmt.Sprintf("Hello, %s! (from Go)", name),
		"runtime": "go",
		"version": runtime.Version(),
	}})
}

func respond(r response) {
	json.NewEncoder(os.Stdout).Encode(r)
}
