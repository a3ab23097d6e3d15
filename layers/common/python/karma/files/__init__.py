"""Files of devices: a tree of directories in DynamoDB, their bytes in S3.

- **File**: an entry of the tree, `uploading` until its bytes were verified. **Directory**: an entry without bytes.
- **Upload**: the parts that a client sends to S3 by itself. **Verifier**: the worker that looks at what came.
"""
