const request = JSON.parse(require('node:fs').readFileSync(0, 'utf8'));
console.log(JSON.stringify({ request_id: request.request_id, success: true, output: request.input }));
