"""The Lambda function: an image comes in, people's joints and a picture with their skeletons go out.

What is imported here ships in the function's package: onnxruntime, NumPy and Pillow, and of this project only
`codecs`, `drawing`, `skeletons`, `frozen` and `errors`. boto3 is imported when the model or an image comes from S3
(Lambda's own runtime has it), PyNaCl when a signature is required.
"""
