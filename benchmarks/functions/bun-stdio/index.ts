const request = JSON.parse(await Bun.stdin.text());
console.log(JSON.stringify({ request_id: request.request_id, success: true, output: request.input }));
